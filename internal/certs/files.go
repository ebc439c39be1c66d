package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultPoll = 5 * time.Second
	maxFile     = 1 << 20             // bytes
	soon        = 14 * 24 * time.Hour // before the end of a certificate
	remindEvery = 24 * time.Hour      // of that
)

// A Pair is a certificate with its key, as files in PEM. The certificate's file
// has the chain too, the certificate itself first. An empty Key means that the
// key is in the same file.
type Pair struct{ Cert, Key string }

// Options configures Files. The zero value is ready to use.
type Options struct {
	// Poll is the time between looks at the files; 0 means 5 s.
	Poll time.Duration

	// Logger is told of what was read, and of what is wrong with it. If nil,
	// nothing is logged.
	Logger *slog.Logger
}

// Files are certificates from files. Its methods are safe for concurrent use.
type Files struct {
	opts Options
	set  atomic.Pointer[set]

	mu    sync.Mutex // held while files are read; guards pairs
	pairs []*pair
}

// A pair is a Pair that was read.
type pair struct {
	Pair
	cert     *tls.Certificate // the last good one
	seen     stamps           // of the files that were read last, good or not
	reminded time.Time        // that cert ends soon
}

// stamps tell apart the states of a pair's files.
type stamps [2]stamp

type stamp struct {
	size  int64
	mtime time.Time
	id    any // what os.SameFile compares, if there is any
	err   string
}

// Open reads all pairs. Its error names the file that cannot be used.
func Open(pairs []Pair, opts Options) (*Files, error) {
	if opts.Poll <= 0 {
		opts.Poll = defaultPoll
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if len(pairs) == 0 {
		return nil, errors.New("certs: no certificate files")
	}
	f := &Files{opts: opts}
	for _, p := range pairs {
		if p.Key == "" {
			p.Key = p.Cert
		}
		f.pairs = append(f.pairs, &pair{Pair: p})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.readLocked(true); err != nil {
		return nil, err
	}
	return f, nil
}

// Certificate is for tls.Config's GetCertificate. The error is ErrNone if there
// is none for the name. A visitor who names nobody gets the first one.
func (f *Files) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return f.set.Load().choose(hello)
}

// Has reports whether there is a certificate for name, in lower case, or with
// an empty one for visitors who name nobody.
func (f *Files) Has(name string) bool { return len(f.set.Load().find(name)) > 0 }

// Covers reports whether the certificate that visitors get who ask for name,
// which may be empty, is good for host too.
func (f *Files) Covers(name, host string) bool { return f.set.Load().covers(name, host) }

// HasWildcard reports whether there is a certificate for all names below
// domain.
func (f *Files) HasWildcard(domain string) bool {
	for _, c := range f.set.Load().byName["*."+domain] {
		if isFor(c.Leaf, "*."+domain) {
			return true
		}
	}
	return false
}

// End returns when the first of the certificates expires.
func (f *Files) End() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	var first time.Time
	for _, p := range f.pairs {
		if end := p.cert.Leaf.NotAfter; first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}

// Watch reads files again when they have changed, until ctx ends. While those
// of a pair cannot be used it keeps the certificate that it has.
func (f *Files) Watch(ctx context.Context) {
	tick := time.NewTicker(f.opts.Poll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.mu.Lock()
			f.readLocked(false) // logs
			f.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// Prepare reads all files now, and returns what puts them to use. The error has
// all that is wrong with them.
func (f *Files) Prepare() (apply func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	read := make([]*tls.Certificate, len(f.pairs))
	seen := make([]stamps, len(f.pairs))
	var errs []error
	for i, p := range f.pairs {
		seen[i] = p.stamps()
		read[i], err = p.read()
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i, p := range f.pairs {
			p.seen = seen[i]
			f.use(p, read[i])
		}
		f.set.Store(newSet(certificates(f.pairs)))
	}, nil
}

// readLocked reads the pairs that have changed, or all.
func (f *Files) readLocked(all bool) error {
	var errs []error
	changed := false
	for _, p := range f.pairs {
		now := p.stamps()
		if !all && now == p.seen {
			f.remind(p)
			continue
		}
		p.seen = now // from before the reading: a later change shows
		cert, err := p.read()
		if err != nil {
			errs = append(errs, err)
			if p.cert != nil {
				f.opts.Logger.Error("certificate not read, the old one stays in use", "err", err, "until", p.cert.Leaf.NotAfter)
			}
			continue
		}
		changed = true
		f.use(p, cert)
	}
	if changed {
		f.set.Store(newSet(certificates(f.pairs)))
	}
	return errors.Join(errs...)
}

// use makes cert that of the pair.
func (f *Files) use(p *pair, cert *tls.Certificate) {
	if p.cert != nil && !p.cert.Leaf.Equal(cert.Leaf) {
		f.opts.Logger.Info("certificate read again", "file", p.Cert, "names", cert.Leaf.DNSNames, "until", cert.Leaf.NotAfter)
	}
	p.cert, p.reminded = cert, time.Time{}
	f.remind(p)
}

func certificates(pairs []*pair) (all []*tls.Certificate) {
	for _, p := range pairs {
		if p.cert != nil {
			all = append(all, p.cert)
		}
	}
	return all
}

// remind logs, once a day, that a certificate ends or has ended.
func (f *Files) remind(p *pair) {
	if p.cert == nil || time.Since(p.reminded) < remindEvery {
		return
	}
	switch left := time.Until(p.cert.Leaf.NotAfter); {
	case left <= 0:
		f.opts.Logger.Error("certificate has expired", "file", p.Cert, "names", p.cert.Leaf.DNSNames, "until", p.cert.Leaf.NotAfter)
	case left < soon && left < p.cert.Leaf.NotAfter.Sub(p.cert.Leaf.NotBefore)/3:
		f.opts.Logger.Warn("certificate expires soon", "file", p.Cert, "names", p.cert.Leaf.DNSNames, "until", p.cert.Leaf.NotAfter)
	default:
		return
	}
	p.reminded = time.Now()
}

func (p *pair) stamps() stamps { return stamps{stampOf(p.Cert), stampOf(p.Key)} }

// read reads and checks the files of a pair.
func (p *pair) read() (*tls.Certificate, error) {
	certPEM, err := readFile(p.Cert)
	if err != nil {
		return nil, fmt.Errorf("certificate file %s: %w", p.Cert, err)
	}
	keyPEM, err := readFile(p.Key)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", p.Key, err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate file %s with key file %s: %w", p.Cert, p.Key, withoutPrefix(err))
	}
	if len(cert.Leaf.DNSNames) == 0 && len(cert.Leaf.IPAddresses) == 0 {
		return nil, fmt.Errorf("certificate file %s: it is for no name: want one with a subjectAltName", p.Cert)
	}
	return &cert, nil
}

func readFile(path string) ([]byte, error) {
	// Before it is opened, since to open a pipe may block.
	if info, err := os.Stat(path); err != nil {
		return nil, withoutPath(err)
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("has more than %d bytes", maxFile)
	}
	return b, nil
}

// withoutPath takes the path out of an error that is wrapped with it.
func withoutPath(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// withoutPrefix is for errors of package tls, which are about the same files.
func withoutPrefix(err error) error {
	const prefix = "tls: "
	if text := err.Error(); len(text) > len(prefix) && text[:len(prefix)] == prefix {
		return errors.New(text[len(prefix):])
	}
	return err
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{err: withoutPath(err).Error()}
	}
	return stamp{size: info.Size(), mtime: info.ModTime(), id: fileID(info)}
}
