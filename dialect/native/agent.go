package native

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"adit/carrier"
	"adit/dialect"
	"adit/internal/backoff"
	"adit/internal/wayout"
	"adit/session"
	"adit/tunnel"
)

// A Dialer dials carriers to one server. Its fields must not be changed while
// it is in use.
type Dialer struct {
	// Server is the server's URL: ws, wss, http or https. Path is added to
	// its path.
	Server string

	// Token returns the credential; it is called for each carrier.
	Token func() (string, error)

	// ID and Instance tell the server who is about to connect; either may be
	// empty. See tunnel.Instancer.
	ID       tunnel.ID
	Instance string

	// Run and Number, if Run is not empty, say which of several sessions of one
	// process this is: Number is 1 to MaxConnections, and Run letters and digits
	// that no other process has.
	Run    string
	Number int

	// TLS configures wss; nil verifies the server against the system's
	// certificates.
	TLS *tls.Config

	// Out is the way out to the server; nil is straight.
	Out *wayout.Dialer

	// DialContext opens the sockets of Out; nil is the network's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Host is the Host that the server, or what stands before it, is asked
	// for; empty means that of Server.
	Host string

	// Header is sent along, for what stands before the server. Neither the
	// credential nor what else the dialect says can be set by it.
	Header http.Header

	// Carrier is the kind of carriers that are dialled; empty means WebSocket.
	// Auto needs a Chooser.
	Carrier Carrier

	// Chooser knows which carrier to choose for Auto.
	Chooser *Chooser

	verify    time.Duration // see carrier.Dialer
	connected func()        // see carrier.Dialer
}

// connectURL returns where carriers are dialled.
func connectURL(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return "", errors.New("server URL is malformed: it looks like wss://tunnel.example.com")
	}
	switch u.Scheme {
	case "ws", "wss", "http", "https":
	default:
		return "", fmt.Errorf("server URL has the scheme %q: ws, wss, http and https are allowed", u.Scheme)
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + Path
	return u.String(), nil
}

// Check reports what is wrong with the dialer's fields.
func (d *Dialer) Check() error {
	target, err := connectURL(d.Server)
	if err != nil {
		return err
	}
	for name := range d.Header {
		name := http.CanonicalHeaderKey(name)
		if strings.HasPrefix(name, "Adit-") || name == "Authorization" && d.Token != nil {
			return fmt.Errorf("header %q: set by the agent itself", name)
		}
	}
	if d.Carrier == QUIC {
		return d.carrier(target, d.Header).CheckQUIC()
	}
	return d.carrier(target, d.Header).Check()
}

// Via returns the proxy that carriers are dialled through, without its user and
// password; empty if there is none.
func (d *Dialer) Via() string {
	u, err := url.Parse(d.Server)
	if err != nil || d.Out == nil {
		return ""
	}
	via, err := d.Out.Via(u)
	if err != nil || via == nil {
		return ""
	}
	return via.String()
}

// dial dials one carrier. The error is a *carrier.StatusError if the server
// turned it away.
func (d *Dialer) dial(ctx context.Context) (net.Conn, Carrier, error) {
	if d.Carrier == Auto {
		return d.choose(ctx)
	}
	kind := cmp.Or(d.Carrier, WebSocket)
	conn, err := d.dialKind(ctx, kind)
	return conn, kind, err
}

// dialKind dials a carrier of that kind.
func (d *Dialer) dialKind(ctx context.Context, kind Carrier) (net.Conn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx) // whoever is asked for a credential, or dials, need not know ctx
	}
	target, err := connectURL(d.Server)
	if err != nil {
		return nil, err
	}
	header := d.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if d.Token != nil {
		token, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("credential: %w", err)
		}
		header.Set("Authorization", "Bearer "+token)
	}
	if d.ID != "" {
		header.Set(headerID, string(d.ID))
	}
	if d.Instance != "" {
		header.Set(headerInstance, d.Instance)
	}
	if d.Run != "" {
		header.Set(headerConnection, formatConnection(d.Run, d.Number))
	}
	return dialKind(ctx, kind, d.carrier(target, header))
}

func (d *Dialer) carrier(target string, header http.Header) *carrier.Dialer {
	return &carrier.Dialer{
		URL:         target,
		Header:      header,
		Host:        d.Host,
		TLS:         d.TLS,
		Out:         d.Out,
		DialContext: d.DialContext,
		Subprotocol: Subprotocol,
		ZeroMask:    true,
		Verify:      d.verify,
		Connected:   d.connected,
	}
}

const (
	// dialTimeout bounds one attempt to get a carrier, handshakes included.
	dialTimeout = 15 * time.Second

	// Between attempts to resume a session the waits grow from the first to
	// the second.
	resumeMin = 100 * time.Millisecond
	resumeMax = 5 * time.Second
)

// A Session is the agent's side of a session. It is a net.Listener whose conns
// are tunnel.Incoming. Its methods are safe for concurrent use.
type Session struct {
	s      *session.Session
	dialer *Dialer
	log    *slog.Logger
	report func(lost error, wait time.Duration)
	letGo  atomic.Bool
	kind   atomic.Pointer[Carrier] // of the carrier that it has or had last
	renew  chan struct{}           // a carrier is to be replaced
}

var _ net.Listener = (*Session)(nil)

// SessionOptions configures a Session. The zero value is ready to use.
type SessionOptions struct {
	// Session are the options of the session itself.
	Session session.Options

	// OnCarrier, if not nil, is called by Serve when the session has lost its
	// carrier or could not get another (lost is why, and wait the time until
	// the next attempt), and with nil when it has one again. It must not
	// block.
	OnCarrier func(lost error, wait time.Duration)

	// Logger receives the session's events. If nil, nothing is logged.
	Logger *slog.Logger
}

// Dial starts a session. ctx bounds that only; the caller runs Serve, and
// Close at the end.
func Dial(ctx context.Context, d *Dialer, opts SessionOptions) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, kind, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.OnCarrier == nil {
		opts.OnCarrier = func(error, time.Duration) {}
	}
	s, err := session.Dial(ctx, conn, &opts.Session)
	if err != nil {
		d.doubt(ctx, kind, err)
		return nil, err
	}
	as := &Session{s: s, dialer: d, log: opts.Logger, report: opts.OnCarrier, renew: make(chan struct{}, 1)}
	as.kind.Store(&kind)
	return as, nil
}

// Serve gives the session a new carrier each time that it loses one, until it
// has ended; it returns why. When ctx ends Serve returns ctx's error and leaves
// the session to the caller.
func (s *Session) Serve(ctx context.Context) error {
	b := backoff.Backoff{Min: resumeMin, Max: resumeMax}
	w := watch{session: s}
	auto := s.dialer.Carrier == Auto
	look := time.NewTimer(1<<63 - 1)
	defer look.Stop()
	if auto {
		w.began()
	}
	for {
		if auto {
			look.Reset(time.Until(w.due()))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.s.Done():
			return s.Err()
		case <-look.C:
			w.look(ctx)
			continue
		case <-s.renew:
			if err := s.resume(ctx); err != nil && s.s.Err() == nil {
				s.log.Warn("carrier not renewed", "err", err)
			}
			continue
		case <-s.s.Detached():
		}
		if s.s.Err() != nil { // it is about to be done: its carrier may take time to close
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-s.s.Done():
				return s.Err()
			}
		}
		if auto {
			w.lost()
		}
		lost := errors.New("carrier lost")
		for attempt := 0; s.s.Err() == nil; attempt++ {
			if s.letGo.Load() && s.s.Streams() == 0 {
				s.s.Close()
				break
			}
			if attempt > 0 {
				wait := b.Next()
				s.report(lost, wait)
				if !sleep(ctx, s.s.Done(), wait) {
					break
				}
			} else {
				s.report(lost, 0)
			}
			if err := s.resume(ctx); err != nil {
				lost = err
				if ctx.Err() == nil { // or it was told to end
					s.log.Warn("session not resumed", "err", err)
				}
				continue
			}
			b.Reset()
			if auto {
				w.began()
			}
			s.report(nil, 0)
			break
		}
	}
}

// LetGo has Serve end the session, instead of giving it a new carrier, once it
// has no streams: another one has taken its place.
func (s *Session) LetGo() { s.letGo.Store(true) }

// Renew asks Serve to give the session a new carrier while it has one, so that
// the server sees what the dialer shows now. Streams go on. If there is none to
// be had the session keeps the old one.
func (s *Session) Renew() {
	select {
	case s.renew <- struct{}{}:
	default: // is asked for already
	}
}

// resume makes one attempt to get a carrier.
func (s *Session) resume(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, kind, err := s.dialer.dial(ctx)
	if err != nil {
		return err
	}
	return s.resumeOn(ctx, conn, kind)
}

// resumeOn moves the session to conn.
func (s *Session) resumeOn(ctx context.Context, conn net.Conn, kind Carrier) error {
	if err := s.s.Resume(ctx, conn); err != nil {
		s.dialer.doubt(ctx, kind, err)
		return err
	}
	s.kind.Store(&kind)
	return nil
}

// Carrier returns the kind of the carrier that the session has, or had last.
func (s *Session) Carrier() Carrier { return *s.kind.Load() }

// sleep waits for d; it reports false if ctx or done have ended by then.
func sleep(ctx context.Context, done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-done:
	}
	select { // d may have passed at the same time
	case <-done:
		return false
	default:
		return ctx.Err() == nil
	}
}

// Accept returns the next stream that the server opens, a tunnel.Incoming.
func (s *Session) Accept() (net.Conn, error) {
	for {
		st, err := s.s.Accept(context.Background())
		if err != nil {
			return nil, translate(err)
		}
		info, err := parseInfo(st.Meta())
		if err != nil {
			st.Refuse(uint16(tunnel.RefuseInternal), "malformed metadata: "+err.Error())
			continue
		}
		return &stream{st, info}, nil
	}
}

// OpenTarget asks the server to connect a stream to a target, and returns it
// when that is done. ctx bounds only that, and without one it takes as long as
// the session is without a carrier. The error is a *tunnel.RefusedError if the
// server refuses, it wraps tunnel.ErrClosed if the session has ended, or it is
// ctx's.
func (s *Session) OpenTarget(ctx context.Context, t tunnel.Target) (net.Conn, error) {
	if s.s.OpenLimit() == 0 {
		return nil, &tunnel.RefusedError{Code: tunnel.RefuseForbidden, Reason: "this server does not forward"}
	}
	st, err := s.s.Open(appendTarget(nil, t))
	if err != nil {
		return nil, translate(err)
	}
	if err := st.WaitAccepted(ctx); err != nil {
		st.Reset(uint16(tunnel.ResetCancelled), "")
		return nil, translate(err)
	}
	return &stream{Stream: st}, nil
}

// Addr returns this end's address of the present carrier.
func (s *Session) Addr() net.Addr { return addr(s.dialer.Server) }

type addr string

func (addr) Network() string  { return "adit" }
func (a addr) String() string { return string(a) }

// Close ends the session and its streams, and returns when nothing of it runs.
func (s *Session) Close() error { return s.s.Close() }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.s.Done() }

// Err returns why the session ended; see Ended.
func (s *Session) Err() error { return s.s.Err() }

// Load returns the number of open streams, and whether what is sent now would
// have to wait.
func (s *Session) Load() (streams int, stalled bool) { return s.s.Load() }

// Drain asks the server to open no more streams; those that are open go on.
func (s *Session) Drain(reason string) { s.s.Drain(reason) }

// Draining reports whether the server wants the agent to go elsewhere.
func (s *Session) Draining() bool { return s.s.Draining() }

// OnChange registers f to be called when Draining may have changed. f must not
// block. OnChange may be called once.
func (s *Session) OnChange(f func()) { s.s.OnChange(f) }

// Streams returns the number of open streams.
func (s *Session) Streams() int { return s.s.Streams() }

// RoundTrip returns the measured round trip time, and zero while none is known.
func (s *Session) RoundTrip() time.Duration { return s.s.RoundTrip() }

// Ended says what the end of a session means to the agent: superseded, that a
// newer session of the same agent has its names; credential, that it needs
// another credential.
func Ended(err error) (superseded, credential bool) {
	var e *session.ClosedError
	if errors.As(err, &e) && e.Remote {
		return e.Code == session.CloseSuperseded, e.Code == session.CloseCredential
	}
	return false, false
}

// Bind asks for a public address. The error is a *dialect.BindError if the
// server refuses.
func (s *Session) Bind(ctx context.Context, b dialect.Binding) (dialect.Bound, error) {
	answer, err := s.call(ctx, callBind, appendBinding(nil, b))
	if err != nil {
		return dialect.Bound{}, err
	}
	return parseBound(answer)
}

// Unbind gives back what Bind got under that key.
func (s *Session) Unbind(ctx context.Context, key string) error {
	_, err := s.call(ctx, callUnbind, session.AppendStringField(nil, bindKey, key))
	return err
}

// Refresh replaces the credential that the session lives on.
func (s *Session) Refresh(ctx context.Context, token string) error {
	_, err := s.call(ctx, callRefresh, session.AppendStringField(nil, refreshCredential, token))
	return err
}

func (s *Session) call(ctx context.Context, method uint16, body []byte) ([]byte, error) {
	status, answer, err := s.s.Call(ctx, method, body)
	switch {
	case err != nil:
		return nil, translate(err)
	case status == statusOK:
		return answer, nil
	case status == statusRefused:
		return nil, parseRefusal(answer)
	}
	return nil, fmt.Errorf("the server does not know call %d (status %d)", method, status)
}
