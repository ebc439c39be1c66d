package websocktunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"time"

	"adit/dialect/websocktunnel/wsmux"
	"adit/tunnel"
)

// A Config says whom an agent registers as, and where.
type Config struct {
	ID     string
	Server string // URL: ws, wss, http or https
	Token  string

	// Family is what the server is; nil means Websocktunnel.
	Family *Family

	// PeerWindow is how many bytes the server takes in on a stream without
	// having given credit for them, if it does not tell. 0 means to ask it for
	// its version, and until that is known 4096, which is safe with all.
	PeerWindow int
}

func (c *Config) family() *Family {
	if c.Family == nil {
		return Websocktunnel
	}
	return c.Family
}

// An Ask is why a Config is wanted.
type Ask struct {
	// Last is the Config in use; nil at the first time.
	Last *Config

	// Refused says that a server has refused Last's token.
	Refused bool
}

// Retry says when attempts to connect are made. Zero fields mean the defaults,
// which are those of the originals.
type Retry struct {
	Initial time.Duration // before the second attempt; 0 means 500 ms
	Max     time.Duration // between two attempts; 0 means 60 s
	Total   time.Duration // of one round of attempts; 0 means 3 min
	Factor  float64       // from one delay to the next; 0 means 1.5
	Random  float64       // more or less than Factor, by chance; 0 means 0.5
}

// ListenOptions configures Listen. Configure is required.
type ListenOptions struct {
	// Configure returns whom to register as. It is called before each round of
	// attempts, and again when the server refuses the token. It may wait, but
	// not beyond ctx. An error ends the listener.
	Configure func(ctx context.Context, ask Ask) (Config, error)

	// OnConnect, if not nil, is told the public address each time that the
	// agent is registered. It must not block.
	OnConnect func(url string)

	Retry Retry

	// TLS configures TLS with the server; nil verifies it against the
	// system's certificates.
	TLS *tls.Config

	// DialContext is the way out; nil is the network's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Proxy returns the proxy for a URL; nil asks the environment.
	Proxy func(*url.URL) (*url.URL, error)

	// Plain keeps the agent from offering the extension.
	Plain bool

	// Session are the options of sessions, of which the handshake sets the
	// extension and the windows.
	Session wsmux.Options

	// Logger receives the listener's events. If nil, nothing is logged.
	Logger *slog.Logger
}

// What ends a listener, or keeps it from starting. The texts are those of the
// original's library.
var (
	ErrAuthFailed    = errors.New("auth failed")     // the server refused the token
	ErrRetryFailed   = errors.New("retry failed")    // the server answered so that trying again is no use
	ErrRetryTimedOut = errors.New("retry timed out") // for as long as Retry.Total
)

// A temporaryError is one that net/http's server waits after.
type temporaryError struct{ text string }

func (e *temporaryError) Error() string { return e.text }

// Temporary reports true.
func (e *temporaryError) Temporary() bool { return true }

// Timeout reports false.
func (e *temporaryError) Timeout() bool { return false }

// ErrReconnecting is what Accept returns once when the session was lost; the
// next call waits for another. It is temporary in the sense of net.Error.
var ErrReconnecting net.Error = &temporaryError{"client reconnecting"}

// A Listener is an agent. Its conns are the streams that visitors cause; it
// registers again when it loses its session, and the streams of that are lost.
// Its methods are safe for concurrent use.
type Listener struct {
	opts   ListenOptions
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{} // closed when run has ended

	mu      sync.Mutex // guards the fields below
	cond    sync.Cond
	config  Config
	session *wsmux.Session // nil between two
	url     string
	untold  bool  // a session was lost, and nobody got ErrReconnecting for it
	err     error // why there will be no session
	closed  bool
}

var _ net.Listener = (*Listener)(nil)

// Listen registers an agent, with as many attempts as Retry allows. ctx bounds
// that; the caller closes the listener. The error wraps ErrAuthFailed,
// ErrRetryFailed or ErrRetryTimedOut, or is ctx's or Configure's.
func Listen(ctx context.Context, opts ListenOptions) (*Listener, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Listener{opts: opts, log: opts.Logger, done: make(chan struct{})}
	l.cond.L = &l.mu
	config, err := opts.Configure(ctx, Ask{})
	if err != nil {
		return nil, err
	}
	l.config = config
	if _, err := parseServer(config.Server); err != nil {
		return nil, err
	}
	s, err := l.connect(ctx)
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel = cancel
	go l.run(running, s)
	return l, nil
}

// run replaces the session each time that it ends, until ctx ends or there is
// none to be had. It owns all sessions.
func (l *Listener) run(ctx context.Context, s *wsmux.Session) {
	defer close(l.done)
	p := pacer{retry: l.opts.Retry.withDefaults()}
	for {
		began := time.Now()
		stop := l.serve(ctx, s)
		select {
		case <-s.Done():
		case <-ctx.Done():
		}
		stop()
		s.Close()
		err := s.Err()
		if ctx.Err() != nil {
			return
		}
		l.lost(err)
		if superseded := errors.Is(err, wsmux.ErrSuperseded); superseded || sleep(ctx, p.pause(time.Since(began))) {
			s, err = l.again(ctx, superseded)
		} else {
			err = context.Cause(ctx)
		}
		if err != nil {
			l.fail(err)
			return
		}
	}
}

// serve makes s the session that Accept takes streams from. stop ends what runs
// beside it.
func (l *Listener) serve(ctx context.Context, s *wsmux.Session) (stop func()) {
	l.mu.Lock()
	config, url := l.config, l.url
	l.session = s
	l.cond.Broadcast()
	l.mu.Unlock()
	if l.opts.OnConnect != nil {
		l.opts.OnConnect(url)
	}
	if s.Extended() || config.PeerWindow > 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		d := &dialer{config: config, opts: &l.opts}
		if n := d.askWindow(ctx); n > 0 {
			s.SetPeerWindow(n)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// lost takes note that there is no session.
func (l *Listener) lost(err error) {
	l.mu.Lock()
	l.session, l.untold = nil, true
	l.cond.Broadcast()
	l.mu.Unlock()
	l.log.Warn("session lost", "err", err)
}

// fail takes note that there will be none any more.
func (l *Listener) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
	l.cond.Broadcast()
}

// await returns the present session if it is not last. It waits for one, but
// the first call after a loss returns ErrReconnecting, even if there is another
// session by then: a caller that hears nothing would wait for streams of the
// one that it knew.
func (l *Listener) await(last *wsmux.Session) (*wsmux.Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case l.closed:
			return nil, net.ErrClosed
		case l.err != nil:
			return nil, l.err
		case l.untold:
			l.untold = false
			return nil, ErrReconnecting
		case l.session != nil && l.session != last:
			return l.session, nil
		}
		l.cond.Wait()
	}
}

// next returns the next stream, not yet answered.
func (l *Listener) next() (*wsmux.Stream, error) {
	var last *wsmux.Session
	for {
		s, err := l.await(last)
		if err != nil {
			return nil, err
		}
		st, err := s.Accept()
		if err == nil {
			return st, nil
		}
		last = s // it has ended, which run is about to see
	}
}

// Accept returns the next stream that a visitor causes, accepted. After the
// session was lost it returns ErrReconnecting once. The error is not temporary
// if there will be no other session; it then stays the same.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		st, err := l.next()
		if err != nil {
			return nil, err
		}
		switch {
		case st.Accepted() != nil:
			st.Close() // gone again
		case st.Extended():
			return st, nil
		default:
			return &plainStream{st}, nil
		}
	}
}

// AcceptIncoming is Accept for whoever wants to answer the visitor's side when
// it knows whether there is an upstream.
func (l *Listener) AcceptIncoming() (tunnel.Incoming, error) {
	st, err := l.next()
	if err != nil {
		return nil, err
	}
	return incoming{st}, nil
}

// URL returns the public address, which may be another after a reconnect; empty
// if the server did not tell.
func (l *Listener) URL() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.url
}

// Addr returns the public address as a net.Addr.
func (l *Listener) Addr() net.Addr { return addr(l.URL()) }

type addr string

func (addr) Network() string  { return "websocktunnel" }
func (a addr) String() string { return string(a) }

// Streams returns the number of open streams.
func (l *Listener) Streams() int {
	l.mu.Lock()
	s := l.session
	l.mu.Unlock()
	if s == nil {
		return 0
	}
	return s.Streams()
}

// Close ends the agent and its streams, and returns when nothing of it runs.
// Calls after the first return nil.
func (l *Listener) Close() error {
	l.mu.Lock()
	l.closed = true
	l.cond.Broadcast()
	l.mu.Unlock()
	l.cancel()
	<-l.done
	return nil
}
