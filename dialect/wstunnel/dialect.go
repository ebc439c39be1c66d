package wstunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"adit/auth"
	"adit/carrier"
	"adit/dialect"
	"adit/internal/wsconn"
	"adit/internal/wsframe"
	"adit/session"
	"adit/tunnel"
)

// DialectOptions configures a Dialect. Auth is required.
type DialectOptions struct {
	// Auth decides on tokens, most likely an *auth.RendezvousTokens. The
	// identity's scope has the one ID that the token stands for.
	Auth dialect.Authenticator

	// PingTimeout, MaxBody, Budget and Memory are as in ServerOptions; Budget
	// is for one client.
	PingTimeout             time.Duration
	MaxBody, Budget, Memory int64
}

// A Dialect takes in clients of wstunnel beside other agents: each stands for
// the one ID of its token, and its tunnel ends with its connection. Its methods
// are safe for concurrent use.
type Dialect struct {
	auth     dialect.Authenticator
	opts     ServerOptions
	memory   *budget
	acceptor *session.Acceptor
}

var (
	_ dialect.Dialect       = (*Dialect)(nil)
	_ dialect.Authenticator = (*Dialect)(nil)
)

// NewDialect returns a Dialect.
func NewDialect(opts DialectOptions) *Dialect {
	so := ServerOptions{PingTimeout: opts.PingTimeout, MaxBody: opts.MaxBody, Budget: opts.Budget, Memory: opts.Memory}
	so.defaults()
	return &Dialect{auth: opts.Auth, opts: so, memory: &budget{limit: so.Memory}, acceptor: newAcceptor(&so)}
}

// Name returns "wstunnel".
func (d *Dialect) Name() string { return "wstunnel" }

// Match reports whether r is for /_tunnel.
func (d *Dialect) Match(r *http.Request) bool { return r.URL.Path == "/_tunnel" }

// Authenticate implements dialect.Authenticator.
func (d *Dialect) Authenticate(ctx context.Context, claim auth.Claim) (*auth.Identity, error) {
	return d.auth.Authenticate(ctx, claim)
}

// errAgentGone is that of requests whose client's connection has ended.
var errAgentGone = fmt.Errorf("wstunnel: %w", tunnel.ErrClosed)

// Accept implements dialect.Dialect.
func (d *Dialect) Accept(w http.ResponseWriter, r *http.Request, admit dialect.AdmitFunc) (tunnel.Tunnel, error) {
	token, key, err := checkHandshake(r)
	if err != nil {
		answerError(w, err)
		return nil, err
	}
	remote, _ := netip.ParseAddrPort(r.RemoteAddr)
	claim := auth.Claim{Token: token, Remote: netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())}
	claim.Password, _ = passwordOf(token, r)
	id, err := admit(r.Context(), claim)
	if err == nil && len(id.Scope.IDs) != 1 {
		err = &auth.Error{Code: auth.Forbidden, Reason: "the token does not stand for one ID"}
	}
	if err != nil {
		refuse(w, err)
		return nil, err
	}
	native := r.Header.Get(headerSession) == sessionVersion
	conn, br, err := hijack(w)
	if err != nil {
		return nil, err
	}
	carrier.Tune(conn)
	name := tunnel.ID(id.Scope.IDs[0])
	if native {
		return d.acceptSession(conn, br, key, name, id.Subject)
	}
	t := &messageTunnel{Tunnel: newTunnel(token, &d.opts, d.memory), id: name, conn: conn, br: br, key: key, remote: r.RemoteAddr}
	return t, nil
}

// refuse answers a client that is not admitted, without telling what was wrong.
func refuse(w http.ResponseWriter, err error) {
	ae, ok := errors.AsType[*auth.Error](err)
	if !ok || ae.Code == auth.Busy {
		w.Header().Set("Retry-After", "1")
		answerError(w, &StatusError{Code: http.StatusServiceUnavailable, Text: "The server cannot take clients now"})
		return
	}
	answerError(w, &StatusError{Code: http.StatusUnauthorized, Text: "Invalid token or password", Challenge: `Basic realm="wstunnel"`})
}

// A messageTunnel is a client with the original's format. It carries HTTP alone.
type messageTunnel struct {
	*Tunnel
	id     tunnel.ID
	conn   net.Conn
	br     *bufio.Reader
	key    string // of the handshake
	remote string

	mu      sync.Mutex // guards begun
	begun   bool       // Registered or Close was called
	running sync.WaitGroup
}

var (
	_ http.RoundTripper  = (*messageTunnel)(nil)
	_ dialect.Registrant = (*messageTunnel)(nil)
)

// ID is that of the client's token.
func (t *messageTunnel) ID() tunnel.ID { return t.id }

// begin reports whether it is the first call.
func (t *messageTunnel) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := !t.begun
	t.begun = true
	if first {
		t.running.Add(1)
	}
	return first
}

// Registered completes the handshake: visitors find the client already when it
// hears that it is there.
func (t *messageTunnel) Registered(_ dialect.Bound, err error) {
	if !t.begin() {
		return
	}
	go func() {
		defer t.running.Done()
		defer t.end(errAgentGone)
		if err != nil {
			const text = "The name of this token cannot be had here\n"
			t.conn.SetDeadline(time.Now().Add(headTime))
			fmt.Fprintf(t.conn, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
			t.conn.Close()
			return
		}
		if switchProtocols(t.conn, t.key, false) != nil {
			return
		}
		l := newMessageLink(t.Tunnel, t.conn, t.br)
		if !t.addLink(l, t.remote) {
			t.conn.Close()
			return
		}
		l.run()
	}()
}

// Close ends the tunnel and its connection, and waits for its goroutine.
func (t *messageTunnel) Close() error {
	t.end(errAgentGone)
	if t.begin() {
		t.conn.Close()
		t.running.Done()
	}
	t.running.Wait()
	return nil
}

// RoundTrip is Tunnel's, with errors that say whether the client is gone; what
// the server itself has to say is an answer.
func (t *messageTunnel) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.Tunnel.RoundTrip(req)
	se, ok := errors.AsType[*StatusError](err)
	switch {
	case !ok:
		return resp, err
	case se == errLost, se == errRetries:
		return nil, fmt.Errorf("%w: %w", tunnel.ErrClosed, se)
	}
	return &http.Response{
		Status: http.StatusText(se.Code), StatusCode: se.Code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "X-Content-Type-Options": {"nosniff"}},
		ContentLength: int64(len(se.Text)), Body: io.NopCloser(strings.NewReader(se.Text)), Request: req,
	}, nil
}

// acceptSession takes a client that is adit too, or gives a session of one a
// new carrier.
func (d *Dialect) acceptSession(conn net.Conn, br *bufio.Reader, key string, id tunnel.ID, subject string) (tunnel.Tunnel, error) {
	if err := switchProtocols(conn, key, true); err != nil {
		return nil, fmt.Errorf("wstunnel: %w", err)
	}
	t := &sessionTunnel{id: id, subject: subject}
	ws := wsconn.New(conn, wsconn.Server, wsconn.Options{Buffered: early(br)})
	s, resumed, err := d.acceptor.Accept(context.Background(), ws, t, func(old *session.Session) bool {
		before := old.Value().(*sessionTunnel)
		return before.id == id && before.subject == subject
	})
	if err != nil {
		return nil, fmt.Errorf("wstunnel: %w", err)
	}
	if resumed {
		return s.Value().(*sessionTunnel), dialect.ErrResumed
	}
	t.s = s
	return t, nil
}

// switchProtocols answers a handshake.
func switchProtocols(conn net.Conn, key string, native bool) error {
	head := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + wsframe.Accept(key) + "\r\n"
	if native {
		head += headerSession + ": " + sessionVersion + "\r\n"
	}
	conn.SetDeadline(time.Now().Add(headTime))
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		conn.Close()
		return err
	}
	return conn.SetDeadline(time.Time{})
}
