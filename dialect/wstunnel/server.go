package wstunnel

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"adit/carrier"
	"adit/internal/replay"
	"adit/internal/wsconn"
	"adit/session"
	"adit/tunnel"
)

// ServerOptions configures a Server. The zero value is ready to use.
type ServerOptions struct {
	// PingTimeout is how long a client may be silent; 0 means 30 s.
	PingTimeout time.Duration

	// RequestTimeout is how long a caller waits for an answer to begin, from
	// the arrival of the request; 0 means 20 minutes. A negative one refuses
	// all requests, as the original does.
	RequestTimeout time.Duration

	// MaxPending bounds the requests of one token at a time, waiting ones
	// included; 0 means 16384.
	MaxPending int

	// MaxBody bounds a body that has to be held as a whole, in bytes, as those
	// to and from originals have; 0 means 100 MiB, which is also the most that
	// these take.
	MaxBody int64

	// Budget bounds the bytes of bodies that are held for one token; 0 means
	// 512 MiB. Beyond 256 KiB a body is in a file.
	Budget int64

	// Memory bounds the bytes of bodies in memory, for all tokens together; 0
	// means 256 MiB.
	Memory int64

	// MaxTunnels bounds the tokens; 0 means 65536.
	MaxTunnels int

	// Forget is how long a token without a sign of life is remembered; 0 means
	// one hour.
	Forget time.Duration

	// Grace is how long Serve lets requests finish when its ctx ends; 0 means
	// 10 s, negative means not at all.
	Grace time.Duration

	// Passwords are those of tokens that have one: a client has to give it.
	Passwords map[string]string

	// BasePath is the path below which callers and clients find all addresses,
	// such as "/wstunnel"; empty is the root.
	BasePath string

	// MaxClients bounds the clients that are connected with one token at a
	// time; 0 means any number.
	MaxClients int

	// Admit, if not nil, decides on each request of a caller that has named a
	// tunnel, and may change its header. The error is a *StatusError if the
	// caller is to be told something.
	Admit func(r *http.Request, id tunnel.ID) error

	// LookupAddr, if not nil, finds the names of clients' addresses for
	// /_stats, as net.Resolver does.
	LookupAddr func(ctx context.Context, addr string) ([]string, error)

	// Log receives the events. If nil, they are lost.
	Log *slog.Logger
}

func (o *ServerOptions) defaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.PingTimeout, 30*time.Second)
	set(&o.RequestTimeout, 20*time.Minute)
	set(&o.Forget, time.Hour)
	set(&o.Grace, 10*time.Second)
	most := func(n *int64, v int64) {
		if *n <= 0 {
			*n = v
		}
	}
	most(&o.MaxBody, MaxMessage)
	most(&o.Budget, 512<<20)
	most(&o.Memory, 256<<20)
	if o.MaxPending <= 0 {
		o.MaxPending = 1 << 14
	}
	if o.MaxTunnels <= 0 {
		o.MaxTunnels = 1 << 16
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// A Server serves callers and clients, as an http.Handler. Its methods are safe
// for concurrent use.
type Server struct {
	opts     ServerOptions
	memory   *budget
	acceptor *session.Acceptor
	ends     chan struct{} // closed by Close
	lookups  chan struct{} // holds one for each that is under way

	mu      sync.Mutex // guards the fields below
	tunnels map[[sha256.Size]byte]*Tunnel
	closed  bool
	running sync.WaitGroup
}

// NewServer returns a Server. The caller closes it.
func NewServer(opts ServerOptions) *Server {
	opts.defaults()
	s := &Server{opts: opts, memory: &budget{limit: opts.Memory}, ends: make(chan struct{}), lookups: make(chan struct{}, maxLookups), tunnels: make(map[[sha256.Size]byte]*Tunnel)}
	s.acceptor = newAcceptor(&opts)
	s.running.Go(s.forget)
	return s
}

// newAcceptor returns what takes the sessions of clients that are adit.
func newAcceptor(opts *ServerOptions) *session.Acceptor {
	return session.NewAcceptor(&session.Options{
		Ping:         opts.PingTimeout / 3,
		Dead:         opts.PingTimeout,
		ResumeWindow: resumeWindow,
		MaxStreams:   -1, // clients open none
		Budget:       session.NewBudget(opts.Memory),
	})
}

// resumeWindow is how long a session of our own waits for its client to come
// back with it.
const resumeWindow = 15 * time.Second

// Close ends all tunnels and waits for their goroutines.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.running.Wait()
		return nil
	}
	s.closed = true
	close(s.ends)
	tunnels := s.tunnels
	s.tunnels = nil
	s.mu.Unlock()
	for _, t := range tunnels {
		t.end(errStopped)
	}
	s.running.Wait()
	return nil
}

// Tunnel returns the tunnel of a token, if a client has ever come with it.
func (s *Server) Tunnel(token string) (*Tunnel, bool) {
	if len(token) < 8 {
		return nil, false // the original's clients cannot have one
	}
	key := sha256.Sum256([]byte(token)) // so that the time tells nothing
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tunnels[key]
	return t, t != nil
}

// enter returns the tunnel of a client's token, and counts the client's link.
func (s *Server) enter(token string) (*Tunnel, error) {
	key := sha256.Sum256([]byte(token))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errStopped
	}
	t := s.tunnels[key]
	if t == nil {
		if len(s.tunnels) >= s.opts.MaxTunnels {
			return nil, &StatusError{Code: http.StatusServiceUnavailable, Text: fmt.Sprintf("Too many tunnels: %d are allowed", s.opts.MaxTunnels)}
		}
		t = newTunnel(token, &s.opts, s.memory)
		s.tunnels[key] = t
	}
	if err := t.enterClient(); err != nil {
		return nil, err
	}
	s.running.Add(1)
	return t, nil
}

// forget drops tokens of which nothing was heard for long.
func (s *Server) forget() {
	tick := time.NewTicker(min(time.Minute, s.opts.Forget))
	defer tick.Stop()
	for {
		select {
		case <-s.ends:
			return
		case <-tick.C:
		}
		var old []*Tunnel
		s.mu.Lock()
		for key, t := range s.tunnels {
			if t.idle() > s.opts.Forget {
				old = append(old, t)
				delete(s.tunnels, key)
			}
		}
		s.mu.Unlock()
		for _, t := range old {
			s.opts.Log.Info("Tunnel not seen for a long time, deleting", "tunnel", t.id)
			t.end(errForgotten)
		}
	}
}

// idle returns how long nothing was heard; with a link that is not over it is
// none.
func (t *Tunnel) idle() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.links) > 0 {
		return 0
	}
	return time.Since(t.seen)
}

const minToken = 16 // bytes of a client's token

// checkHandshake returns a client's token and the key of its handshake. The
// error is a *StatusError.
func checkHandshake(r *http.Request) (token, key string, err error) {
	bad := func(text string) error { return &StatusError{Code: http.StatusBadRequest, Text: text} }
	token, key = r.Header.Get("Origin"), r.Header.Get("Sec-Websocket-Key")
	switch {
	case r.Method != http.MethodGet:
		return "", "", bad("Only GET requests are supported")
	case token == "":
		return "", "", bad("Origin header with rendez-vous token required")
	case len(token) < minToken:
		// The text of the original; it goes to whoever has sent the token.
		return "", "", bad(fmt.Sprintf("Rendez-vous token (%s) is too short (must be 16 chars)", token))
	case !hasToken(r.Header["Connection"], "upgrade") || !hasToken(r.Header["Upgrade"], "websocket") ||
		!hasToken(r.Header["Sec-Websocket-Version"], "13") || key == "":
		return "", "", bad("Not a websocket handshake")
	}
	return token, key, nil
}

// serveTunnel takes a client.
func (s *Server) serveTunnel(w http.ResponseWriter, r *http.Request) {
	token, key, err := checkHandshake(r)
	if err == nil {
		if text := checkPassword(s.opts.Passwords, token, r); text != "" {
			err = &StatusError{Code: http.StatusUnauthorized, Text: text, Challenge: `Basic realm="wstunnel"`}
		}
	}
	if err != nil {
		answerError(w, err)
		return
	}
	// The token is known before the client hears that it is: what its callers
	// then send waits, if need be, until the link is complete.
	t, err := s.enter(token)
	if err != nil {
		answerError(w, err)
		return
	}
	native := r.Header.Get(headerSession) == sessionVersion
	remote := r.RemoteAddr
	if v := r.Header.Get("X-Forwarded-For"); v != "" {
		remote = v
	}
	conn, br, err := hijack(w)
	if err == nil {
		err = switchProtocols(conn, key, native)
	}
	if err != nil {
		s.opts.Log.Error("WS upgrade error", "tunnel", t.id, "err", err)
		t.leaveClient()
		s.running.Done()
		return
	}
	s.lookUp(t, r)
	// What net/http holds for the connection is not needed any more.
	go s.serveClient(t, replay.Bare(conn), br, native, remote)
}

// serveClient serves a client's connection to its end.
func (s *Server) serveClient(t *Tunnel, conn net.Conn, br *bufio.Reader, native bool, remote string) {
	defer s.running.Done()
	defer t.leaveClient()
	carrier.Tune(conn)
	log := s.opts.Log.With("tunnel", t.id, "addr", remote)
	log.Info("WS new tunnel connection", "native", native)
	var err error
	if native {
		err = s.serveNative(t, conn, br, remote)
	} else {
		l := newMessageLink(t, conn, br)
		if t.addLink(l, remote) {
			err = l.run()
		} else {
			conn.Close()
		}
	}
	if errors.Is(err, errSilent) {
		log.Info("WS closing due to ping timeout")
	}
	log.Info("WS   closing", "err", err)
}

// hijack takes a client's connection over.
func hijack(w http.ResponseWriter) (net.Conn, *bufio.Reader, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "Not a websocket handshake", http.StatusBadRequest)
		return nil, nil, err
	}
	conn.SetDeadline(time.Time{})
	return conn, rw.Reader, nil
}

// serveNative takes a client that is adit. The session may be one that was
// there already, and then has got a new carrier.
func (s *Server) serveNative(t *Tunnel, conn net.Conn, br *bufio.Reader, remote string) error {
	ws := wsconn.New(conn, wsconn.Server, wsconn.Options{Buffered: early(br)})
	l := &nativeLink{t: t}
	sess, resumed, err := s.acceptor.Accept(context.Background(), ws, l, func(old *session.Session) bool {
		return old.Value().(*nativeLink).t == t
	})
	if err != nil {
		return err
	}
	if resumed {
		t.changed()
		return nil // the goroutine of the first connection waits for the session
	}
	l.s = sess
	sess.OnChange(t.changed)
	t.endDetached()
	if !t.addLink(l, remote) {
		return sess.Close()
	}
	return l.run()
}

// endDetached ends the sessions whose client is away, when another client has
// come: mostly it is the same one, which has lost its memory and will not be
// back for what the old session holds.
func (t *Tunnel) endDetached() {
	t.mu.Lock()
	var gone []*nativeLink
	for _, l := range t.links {
		if nl, ok := l.(*nativeLink); ok && !nl.s.Attached() {
			gone = append(gone, nl)
		}
	}
	t.mu.Unlock()
	for _, l := range gone {
		l.s.Close()
	}
}
