// Package native is adit's own dialect: session over a carrier. Its wire is
// docs/protocol/native.md.
//
// On the server:
//
//	d := native.New(native.Options{})
//	if d.Match(r) {
//		t, err := d.Accept(w, r, admit)
//		...
//	}
//
// At the agent, Dial starts a session, whose Serve keeps it on a carrier:
//
//	s, err := native.Dial(ctx, dialer, opts)
//	...
//	bound, err := s.Bind(ctx, dialect.Binding{...})
//	go s.Serve(ctx)
//	conn, err := s.Accept()
package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"adit/auth"
	"adit/carrier"
	"adit/carrier/requests"
	"adit/dialect"
	"adit/session"
	"adit/tunnel"
)

// Path is where agents connect.
const Path = "/_adit/connect"

// CarrierPath is where the requests go of which a carrier is made.
const CarrierPath = "/_adit/carrier"

// Subprotocol is what they ask for in the WebSocket handshake.
const Subprotocol = "adit.1"

// Header fields of the handshake. An agent says which ID it is about to bind
// first, for logs, and which of the agents under one ID it is.
const (
	headerID       = "Adit-Id"
	headerInstance = "Adit-Instance"
	headerError    = "Adit-Error"
)

const maxInstance = 128 // bytes

// Options configures a Dialect. The zero value is ready to use.
type Options struct {
	// Session are the options of all sessions. Handle and MaxStreams are set
	// by the dialect.
	Session session.Options

	// Forwards is how many streams an agent may have open at a time to
	// targets of its own; 0 means none. The server takes them with
	// AcceptForward.
	Forwards int

	// Logger receives the dialect's events. If nil, nothing is logged.
	Logger *slog.Logger
}

// A Dialect is the server's side. Its methods are safe for concurrent use.
type Dialect struct {
	acceptor *session.Acceptor
	requests *requests.Server
	log      *slog.Logger
}

var (
	_ dialect.Dialect  = (*Dialect)(nil)
	_ dialect.Extended = (*Dialect)(nil)
)

// New returns the server's side of the dialect.
func New(opts Options) *Dialect {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	so := opts.Session
	so.MaxStreams = -1 // agents open none
	if opts.Forwards > 0 {
		so.MaxStreams = opts.Forwards
	}
	so.Handle = handleCall
	if so.Logger == nil {
		so.Logger = opts.Logger
	}
	return &Dialect{
		acceptor: session.NewAcceptor(&so),
		requests: requests.NewServer(requests.Options{}),
		log:      opts.Logger,
	}
}

// Name returns "native".
func (d *Dialect) Name() string { return "native" }

// Stats returns what all sessions do, and have done.
func (d *Dialect) Stats() session.AcceptorStats { return d.acceptor.Stats() }

// Match reports whether r is for Path.
func (d *Dialect) Match(r *http.Request) bool { return r.URL.Path == Path }

// Accept runs the handshake; see dialect.Dialect. A request that admit refuses
// is answered before the upgrade.
func (d *Dialect) Accept(w http.ResponseWriter, r *http.Request, admit dialect.AdmitFunc) (tunnel.Tunnel, error) {
	remote, _ := netip.ParseAddrPort(r.RemoteAddr)
	claim := auth.Claim{ID: r.Header.Get(headerID), Remote: remote}
	instance := r.Header.Get(headerInstance)
	if len(instance) > maxInstance || len(claim.ID) > tunnel.MaxIDLen {
		err := &auth.Error{Code: auth.BadRequest, Reason: fmt.Sprintf("%s takes at most %d bytes, %s at most %d", headerInstance, maxInstance, headerID, tunnel.MaxIDLen)}
		refuse(w, err)
		return nil, err
	}
	run, connection, err := parseConnection(r.Header)
	if err != nil {
		refuse(w, err)
		return nil, err
	}
	if r.TLS != nil {
		claim.Certs = r.TLS.PeerCertificates
	}
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		claim.Token = strings.TrimSpace(token)
	}
	id, err := admit(r.Context(), claim)
	if err != nil {
		refuse(w, err)
		return nil, err
	}
	// The request's context ends with the handler, but the session does not.
	ctx := context.WithoutCancel(r.Context())
	t := &serverTunnel{id: tunnel.ID(claim.ID), subject: id.Subject, instance: instance, run: run, connection: connection}
	if requests.OpensConn(r) {
		conn, kind, err := d.requests.Open(w, r)
		if err != nil {
			return nil, fmt.Errorf("accept carrier: %w", err) // answered by requests
		}
		return nil, &dialect.Continued{Conn: conn, Finish: func() (tunnel.Tunnel, error) {
			return d.accept(ctx, conn, Carrier(kind), t, remote)
		}}
	}
	conn, err := carrier.Accept(w, r, carrier.AcceptOptions{Subprotocol: Subprotocol, ZeroMask: true})
	if err != nil {
		return nil, fmt.Errorf("accept carrier: %w", err) // answered by carrier
	}
	return d.accept(ctx, conn, WebSocket, t, remote)
}

// accept runs the session's handshake on conn, for t if the session is new.
func (d *Dialect) accept(ctx context.Context, conn net.Conn, kind Carrier, t *serverTunnel, remote netip.AddrPort) (tunnel.Tunnel, error) {
	s, resumed, err := d.acceptor.Accept(ctx, conn, t, func(s *session.Session) bool {
		return s.Value().(*serverTunnel).subject == t.subject
	})
	if err != nil {
		return nil, err
	}
	if resumed {
		d.log.Info("session resumed", "tunnel", string(t.id), "remote", remote, "carrier", string(kind))
		t = s.Value().(*serverTunnel)
		t.carrier.Store(&kind)
		return t, dialect.ErrResumed
	}
	t.s = s
	t.carrier.Store(&kind)
	return t, nil
}

// Handler returns what serves r if it belongs to a carrier that is made of
// requests, and nil otherwise.
func (d *Dialect) Handler(r *http.Request) http.Handler {
	if r.URL.Path == CarrierPath {
		return d.requests
	}
	return nil
}

// refuse answers a request whose claim was not admitted.
func refuse(w http.ResponseWriter, err error) {
	status, code, reason := http.StatusServiceUnavailable, "internal", "the server cannot decide now"
	if ae := (*auth.Error)(nil); errors.As(err, &ae) {
		code, reason = string(ae.Code), ae.Reason
		switch ae.Code {
		case auth.Forbidden:
			status = http.StatusForbidden
		case auth.BadRequest:
			status = http.StatusBadRequest
		case auth.Busy:
			w.Header().Set("Retry-After", "1")
		default:
			status = http.StatusUnauthorized
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
	}
	w.Header().Set(headerError, code)
	w.Header().Set("Connection", "close")
	http.Error(w, reason, status)
}

// A serverTunnel is a session as the server sees it.
type serverTunnel struct {
	s        *session.Session
	id       tunnel.ID
	subject  string
	instance string
	carrier  atomic.Pointer[Carrier] // the one that it has or had last

	run        string // tells processes of one instance apart; empty if it has one session
	connection int    // of its sessions; 0 without run

	mu    sync.Mutex // guards the fields below
	binds dialect.BindHandler
	ready chan struct{} // closed when binds is set; nil if nobody waits for that

	binding sync.Mutex // held during a call of binds
}

var (
	_ tunnel.Tunnel       = (*serverTunnel)(nil)
	_ tunnel.EarlyOpener  = (*serverTunnel)(nil)
	_ tunnel.Availability = (*serverTunnel)(nil)
	_ tunnel.Prober       = (*serverTunnel)(nil)
	_ tunnel.Ender        = (*serverTunnel)(nil)
	_ tunnel.Instancer    = (*serverTunnel)(nil)
	_ tunnel.Drainer      = (*serverTunnel)(nil)
	_ tunnel.Parallel     = (*serverTunnel)(nil)
	_ dialect.Binder      = (*serverTunnel)(nil)
	_ dialect.Forwarder   = (*serverTunnel)(nil)
)

func (t *serverTunnel) ID() tunnel.ID            { return t.id }
func (t *serverTunnel) Instance() string         { return t.instance }
func (t *serverTunnel) Done() <-chan struct{}    { return t.s.Done() }
func (t *serverTunnel) Available() bool          { return t.s.Available() }
func (t *serverTunnel) OnAvailability(f func())  { t.s.OnChange(f) }
func (t *serverTunnel) Probe()                   { t.s.Probe() }
func (t *serverTunnel) Heard() time.Time         { return t.s.Heard() }
func (t *serverTunnel) Close() error             { return t.s.Close() }
func (t *serverTunnel) Err() error               { return t.s.Err() }
func (t *serverTunnel) RoundTrip() time.Duration { return t.s.RoundTrip() }
func (t *serverTunnel) Drain(reason string)      { t.s.Drain(reason) }
func (t *serverTunnel) Streams() int             { return t.s.Streams() }
func (t *serverTunnel) Load() (int, bool)        { return t.s.Load() }
func (t *serverTunnel) Parallel() (string, int)  { return t.run, t.connection }

// Carrier returns the name of the carrier that the session has, or had last.
func (t *serverTunnel) Carrier() string { return string(*t.carrier.Load()) }

// Buffered returns the bytes of memory that the session's buffers take.
func (t *serverTunnel) Buffered() (send, receive int) { return t.s.Buffered() }

// End closes the session with a reason that the agent is told.
func (t *serverTunnel) End(why tunnel.EndCode, reason string) error {
	code := uint16(session.CloseDone)
	switch why {
	case tunnel.EndCredential:
		code = session.CloseCredential
	case tunnel.EndSuperseded:
		code = session.CloseSuperseded
	case tunnel.EndShutdown:
		code = session.CloseShutdown
	}
	return t.s.CloseWith(code, reason)
}

func (t *serverTunnel) OpenEarly(info tunnel.StreamInfo) (net.Conn, error) {
	var meta [512]byte
	st, err := t.s.Open(appendInfo(meta[:0], info))
	if err != nil {
		return nil, translate(err)
	}
	return &stream{Stream: st}, nil
}

func (t *serverTunnel) OpenStream(ctx context.Context, info tunnel.StreamInfo) (net.Conn, error) {
	c, err := t.OpenEarly(info)
	if err != nil {
		return nil, err
	}
	if err := c.(*stream).WaitAccepted(ctx); err != nil {
		c.(*stream).Reset(tunnel.ResetCancelled, "")
		return nil, translate(err)
	}
	return c, nil
}

// AcceptForward implements dialect.Forwarder. A stream whose target is malformed
// is refused here.
func (t *serverTunnel) AcceptForward() (tunnel.Asked, error) {
	for {
		st, err := t.s.Accept(context.Background())
		if err != nil {
			return nil, translate(err)
		}
		target, err := parseTarget(st.Meta())
		if err != nil {
			st.Refuse(uint16(tunnel.RefuseForbidden), err.Error())
			continue
		}
		return &askedStream{stream{Stream: st}, target}, nil
	}
}

func (t *serverTunnel) ServeBinds(h dialect.BindHandler) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.binds == nil {
		t.binds = h
		if t.ready != nil {
			close(t.ready)
			t.ready = nil
		}
	}
}

// binder returns what ServeBinds was called with, and waits for it.
func (t *serverTunnel) binder(ctx context.Context) (dialect.BindHandler, error) {
	t.mu.Lock()
	for t.binds == nil {
		if t.ready == nil {
			t.ready = make(chan struct{})
		}
		ready := t.ready
		t.mu.Unlock()
		select {
		case <-ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		t.mu.Lock()
	}
	defer t.mu.Unlock()
	return t.binds, nil
}

// handleCall answers an agent's call.
func handleCall(ctx context.Context, s *session.Session, method uint16, body []byte) (uint16, []byte) {
	t := s.Value().(*serverTunnel)
	binds, err := t.binder(ctx)
	if err != nil {
		return statusRefused, refusal(&dialect.BindError{Code: dialect.BindInternal, Reason: "the session ended"})
	}
	t.binding.Lock()
	defer t.binding.Unlock()

	var answer []byte
	switch method {
	case callBind:
		var b dialect.Binding
		if b, err = parseBinding(body); err == nil {
			var bound dialect.Bound
			bound, err = binds.Bind(ctx, b)
			answer = appendBound(nil, bound)
		} else {
			err = &dialect.BindError{Code: dialect.BindInvalid, Reason: err.Error()}
		}
	case callUnbind:
		err = withField(body, bindKey, func(key string) error { return binds.Unbind(ctx, key) })
	case callRefresh:
		err = withField(body, refreshCredential, func(token string) error {
			return binds.Refresh(ctx, auth.Claim{Token: token, ID: string(t.id)})
		})
	default:
		return statusUnknown, nil
	}
	if err != nil {
		return statusRefused, refusal(err)
	}
	return statusOK, answer
}

// withField calls f with the text of the field with that tag.
func withField(body []byte, tag uint64, f func(string) error) error {
	var value string
	err := session.ParseFields(body, func(got uint64, v []byte) error {
		if got == tag {
			value = string(v)
		}
		return nil
	})
	if err != nil {
		return &dialect.BindError{Code: dialect.BindInvalid, Reason: err.Error()}
	}
	return f(value)
}

func refusal(err error) []byte {
	code, reason := string(dialect.BindInternal), "the server failed"
	be, ae := (*dialect.BindError)(nil), (*auth.Error)(nil)
	if errors.As(err, &be) {
		code, reason = string(be.Code), be.Reason
	} else if errors.As(err, &ae) {
		code, reason = string(ae.Code), ae.Reason
	}
	reason = reason[:min(len(reason), maxRefusal)]
	return session.AppendStringField(session.AppendStringField(nil, refusedCode, code), refusedReason, reason)
}
