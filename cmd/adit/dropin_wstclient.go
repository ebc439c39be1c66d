package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"adit/dialect/websocktunnel"
	"adit/internal/pacing"
)

const wstClientUsage = `Usage: wst-client <wstServer> <wstClientID> <targetPort> [--token <jwtToken>] [--out-file=<outFile>] [--verbose] [--json]

The client of Taskcluster's websocktunnel, as adit runs it. It registers with
the server and connects each stream to targetPort of this machine. Without
<jwtToken> the tokens are read from standard input, one in each line; the newest
is used for the next connection.

Options:
  -h --help             show this text
     --version          show the version that this stands for
     --token            a word that may stand before <jwtToken>
     --out-file=<file>  write the public address there
     --verbose          log more
     --json             log JSON

Option of adit:
     --server-window=<n>  bytes of a stream that the server takes in before it
                          gives credit: 4194304 since websocktunnel 93.1.5
                          (what its version says, else 4096)
`

// streamGrace is how long streams have when a client is told to end.
const streamGrace = 2 * time.Second

// clientFlags are the options of wst-client and whclient.
type clientFlags struct {
	p       *program
	help    bool
	version bool
	outFile string
	verbose bool
	json    bool
	window  int // of the server, if it is known
}

const maxServerWindow = 4 << 20 // of any version

func (f *clientFlags) add(o optionParser) {
	o.BoolVarP(&f.help, "help", "h", false, "")
	o.BoolVar(&f.version, "version", false, "")
	o.StringVar(&f.outFile, "out-file", "", "")
	o.BoolVar(&f.json, "json", false, "")
}

// logger returns the log of a client.
func (f *clientFlags) logger() *slog.Logger {
	h := newLineHandler(textStyle, slog.LevelInfo, f.p.errOut)
	switch {
	case f.json:
		h.style = jsonStyle
	case f.p.console:
		h.style = colourStyle
	}
	if f.verbose {
		h.level = slog.LevelDebug
	}
	return slog.New(h)
}

// wstClient stands in for wst-client.
func (p *program) wstClient(ctx context.Context, args []string) int {
	f := clientFlags{p: p}
	o := newOptionParser("wst-client")
	f.add(o)
	o.BoolVar(&f.verbose, "verbose", false, "")
	o.IntVar(&f.window, "server-window", 0, "")
	var token bool
	o.BoolVar(&token, "token", false, "")
	err := o.parse(args)
	switch {
	case err == nil && f.help:
		fmt.Fprint(p.out, wstClientUsage)
		return exitDone
	case err == nil && f.version:
		fmt.Fprintln(p.out, "wst-client", websocktunnelVersion)
		return exitDone
	case err != nil || o.NArg() < 3 || o.NArg() > 4:
		fmt.Fprint(p.errOut, wstClientUsage) // without err, which may show a token
		return exitFailed
	}
	log := f.logger()
	if o.Changed("server-window") && (f.window < 4096 || f.window > maxServerWindow) {
		fatal(log, wstClientUsage, "err", fmt.Errorf("--server-window %d: 4096 to %d are allowed", f.window, maxServerWindow))
		return exitFailed
	}
	port, err := strconv.ParseUint(o.Arg(2), 10, 16)
	if err != nil {
		fatal(log, wstClientUsage, "targetPort", o.Arg(2))
		return exitFailed
	}
	source := &tokenSource{config: websocktunnel.Config{ID: o.Arg(1), Server: o.Arg(0), Token: o.Arg(3)}}
	if o.Arg(3) == "" {
		source.read(p.in, log)
	}
	return f.run(ctx, log, "connected to websocktunnel", uint16(port), source.configure)
}

// run is a client from here on.
func (f *clientFlags) run(ctx context.Context, log *slog.Logger, connected string, port uint16, configure func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error)) int {
	var once sync.Once
	written := make(chan error, 1)
	l, err := websocktunnel.Listen(ctx, websocktunnel.ListenOptions{
		Configure: func(ctx context.Context, ask websocktunnel.Ask) (websocktunnel.Config, error) {
			c, err := configure(ctx, ask)
			c.PeerWindow = f.window
			return c, err
		},
		OnConnect: func(url string) {
			log.Info(connected, "url", url)
			once.Do(func() { written <- f.writeURL(log, url) })
		},
		Logger: log,
	})
	if err != nil {
		return ended(ctx, log, err)
	}
	defer l.Close()
	if err := <-written; err != nil { // a listener that was opened tells of its first session
		fatal(log, "could not write url to file", "file", f.outFile, "err", err)
		return exitUsage
	}
	dialer := &net.Dialer{Control: pacing.Control}
	return ended(ctx, log, websocktunnel.Forward(ctx, l, streamGrace, func(ctx context.Context) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err != nil {
			// The original stops here; there is no harm in looking.
			if conn, err6 := dialer.DialContext(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(int(port)))); err6 == nil {
				return conn, nil
			}
		}
		return conn, err
	}))
}

// ended says why a client has ended, and returns its exit code.
func ended(ctx context.Context, log *slog.Logger, err error) int {
	if ctx.Err() != nil {
		return exitDone // it was told to
	}
	msg := "retry failed"
	for _, e := range []error{websocktunnel.ErrAuthFailed, websocktunnel.ErrRetryTimedOut, errNoToken} {
		if errors.Is(err, e) {
			msg = e.Error()
		}
	}
	fatal(log, msg, "err", err)
	return exitFailed
}

// writeURL writes the public address to the file that was asked for.
func (f *clientFlags) writeURL(log *slog.Logger, url string) error {
	if f.outFile == "" {
		return nil
	}
	if err := os.WriteFile(f.outFile, []byte(url), 0o644); err != nil {
		return err
	}
	log.Info("wrote url to file", "file", f.outFile, "url", url)
	return nil
}

// errNoToken says that there will be no token.
var errNoToken = errors.New("standard input ended without a token")

// A tokenSource has the newest token.
type tokenSource struct {
	mu     sync.Mutex // guards the fields below
	config websocktunnel.Config
	ready  chan struct{} // closed with the first token, or at the end
	ended  bool
}

const maxTokenLine = 64 << 10 // bytes

// read takes tokens from r, one in each line, for as long as there are any. It
// does not wait: nobody can make a read from a terminal end.
func (s *tokenSource) read(r io.Reader, log *slog.Logger) {
	s.ready = make(chan struct{})
	go func() {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, maxTokenLine)
		for lines.Scan() {
			token := strings.TrimSpace(lines.Text())
			if token == "" {
				continue
			}
			s.mu.Lock()
			first := s.config.Token == ""
			s.config.Token = token
			s.mu.Unlock()
			if first {
				close(s.ready)
			} else {
				log.Debug("new token")
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ended = true
		if s.config.Token == "" {
			close(s.ready)
			return
		}
		log.Warn("standard input has ended: there will be no newer token", "err", lines.Err())
	}()
}

// configure returns the newest token, and waits for the first.
func (s *tokenSource) configure(ctx context.Context, _ websocktunnel.Ask) (websocktunnel.Config, error) {
	if s.ready != nil {
		select {
		case <-s.ready:
		case <-ctx.Done():
			return websocktunnel.Config{}, context.Cause(ctx)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config.Token == "" {
		return websocktunnel.Config{}, errNoToken
	}
	return s.config, nil
}
