package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"adit/auth"
)

// lookEvery is the time between looks at a file with a credential.
const lookEvery = 2 * time.Second

// A fileSource has its token in a file.
type fileSource struct{ path string }

func (s *fileSource) token() (string, error) {
	secret, err := auth.LoadSecret(s.path)
	if err != nil {
		return "", err
	}
	return secret.Reveal(), nil
}

// next waits until the file has another token. While it cannot be read, because
// it is being written say, it waits on.
func (s *fileSource) next(ctx context.Context, last string) (string, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var seen stamp
	for {
		if now := stampOf(s.path); now != seen {
			seen = now
			if token, err := s.token(); err == nil && token != last {
				return token, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// A stamp tells apart the states of a file.
type stamp struct {
	size int64
	time time.Time
	mode fs.FileMode
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{size: -1}
	}
	return stamp{info.Size(), info.ModTime(), info.Mode()}
}

// A lineSource gets a token with each line that somebody writes.
type lineSource struct {
	mu      sync.Mutex // guards the fields below
	newest  string
	err     error         // why there are no more
	changed chan struct{} // closed and replaced with each change
}

// tokensOfInput reads standard input for the rest of the program's life.
func (p *program) tokensOfInput() *lineSource {
	p.lines.Do(func() {
		p.input = &lineSource{changed: make(chan struct{})}
		go p.input.read(p.in) // ends with the input, or the process
	})
	return p.input
}

var errInputEnded = errors.New("standard input has ended without a token")

func (s *lineSource) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), maxTokenText)
	for lines.Scan() {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		token, err := parseToken(lines.Text())
		s.set(token, err)
	}
	err := lines.Err()
	if err == nil {
		err = errInputEnded
	}
	s.set("", err)
}

// set takes over a token, or an error as long as there is none.
func (s *lineSource) set(token string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.newest, s.err = token, nil
	} else if s.newest == "" {
		s.err = err
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *lineSource) get() (token string, changed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest, s.changed, s.err
}

// first waits until there is a token.
func (s *lineSource) first(ctx context.Context) error {
	for {
		token, changed, err := s.get()
		if token != "" || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// token returns the newest token; first was called before.
func (s *lineSource) token() (string, error) {
	token, _, err := s.get()
	return token, err
}

func (s *lineSource) next(ctx context.Context, last string) (string, error) {
	for {
		token, changed, _ := s.get()
		if token != last && token != "" {
			return token, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// A certificateSource has a certificate and its key in files, for one agent.
type certificateSource struct {
	cert, key string

	mu    sync.Mutex // guards the fields below
	seen  [2]stamp
	pair  *tls.Certificate // the last good one
	shown *tls.Certificate // the last one that a server was shown
	err   error            // of the files as they are
}

const maxKeyFile = 1 << 20 // bytes

// get returns the certificate. While the files are no good it returns what they
// had.
func (s *certificateSource) get() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.getLocked()
}

func (s *certificateSource) getLocked() (*tls.Certificate, error) {
	if now := [2]stamp{stampOf(s.cert), stampOf(s.key)}; now != s.seen {
		s.seen = now
		var pair *tls.Certificate
		if pair, s.err = s.load(); s.err == nil {
			s.pair = pair
		}
	}
	if s.pair == nil {
		return nil, s.err
	}
	return s.pair, nil
}

// show is for tls.Config's GetClientCertificate.
func (s *certificateSource) show(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pair, err := s.getLocked()
	s.shown = pair
	return pair, err
}

func (s *certificateSource) load() (*tls.Certificate, error) {
	key, err := auth.ReadPrivate(s.key, maxKeyFile)
	if err != nil {
		return nil, err
	}
	cert := key
	if s.cert != s.key {
		if cert, err = os.ReadFile(s.cert); err != nil {
			return nil, err
		}
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, errors.New(s.cert + " and " + s.key + ": " + strings.TrimPrefix(err.Error(), "tls: "))
	}
	return &pair, nil
}

// changed waits until there is another certificate than the one that was shown.
func (s *certificateSource) changed(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		s.mu.Lock()
		pair, err := s.getLocked()
		other := err == nil && s.shown != nil && pair != s.shown
		s.mu.Unlock()
		if other {
			return nil
		}
	}
}
