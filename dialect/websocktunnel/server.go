package websocktunnel

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"adit/auth"
	"adit/carrier"
	"adit/dialect"
	"adit/dialect/websocktunnel/wsmux"
	"adit/internal/wsframe"
	"adit/tunnel"
)

// Options configures a Dialect. Auth is required.
type Options struct {
	// Auth decides on tokens, most likely an *auth.TunnelTokens.
	Auth dialect.Authenticator

	// URL returns what an agent is told to be its public address; nil means
	// the first of b's, without its last slash. Visitors find an agent whose
	// address has a hostname of its own, which begins with its ID, by that
	// alone.
	URL func(f *Family, id string, b dialect.Bound) string

	// Session are the options of sessions, of which the handshake sets the
	// extension and the windows.
	Session wsmux.Options
}

// A Dialect takes in agents. Its methods are safe for concurrent use.
type Dialect struct {
	opts Options

	mu   sync.Mutex // guards the fields below
	live map[tunnel.ID]*serverTunnel
}

var (
	_ dialect.Dialect       = (*Dialect)(nil)
	_ dialect.Authenticator = (*Dialect)(nil)
)

// New returns a Dialect.
func New(opts Options) *Dialect {
	if opts.URL == nil {
		opts.URL = func(_ *Family, id string, b dialect.Bound) string {
			if len(b.URLs) == 0 {
				return "/" + id
			}
			return strings.TrimSuffix(b.URLs[0], "/")
		}
	}
	return &Dialect{opts: opts, live: make(map[tunnel.ID]*serverTunnel)}
}

// Name returns "websocktunnel".
func (d *Dialect) Name() string { return "websocktunnel" }

// Match reports whether r is a registration: one of the families' header fields
// is there, and the path is "/".
func (d *Dialect) Match(r *http.Request) bool {
	f, _ := familyOf(r)
	return f != nil
}

// Authenticate implements dialect.Authenticator.
func (d *Dialect) Authenticate(ctx context.Context, claim auth.Claim) (*auth.Identity, error) {
	return d.opts.Auth.Authenticate(ctx, claim)
}

// A refusal is the answer to a registration that fails.
type refusal struct {
	status int
	text   string // the body; empty means the status
	reason string // for the log
	err    error  // admit's
}

func (r *refusal) Error() string {
	if r.err != nil {
		return r.err.Error()
	}
	return "websocktunnel: " + r.reason
}

func (r *refusal) Unwrap() error { return r.err }

// answer sends the refusal as the originals do.
func (r *refusal) answer(w http.ResponseWriter) {
	if r.status == http.StatusMethodNotAllowed || r.status == http.StatusBadRequest && strings.HasPrefix(r.reason, "upgrade") {
		w.Header().Set("Sec-Websocket-Version", "13")
	}
	text := r.text
	if text == "" {
		text = http.StatusText(r.status)
	}
	if r.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, text, r.status)
}

// Accept implements dialect.Dialect. The checks are in the order of the
// originals, but for the upgrade, whose failure costs nobody its session.
func (d *Dialect) Accept(w http.ResponseWriter, r *http.Request, admit dialect.AdmitFunc) (tunnel.Tunnel, error) {
	f, id := familyOf(r)
	ref := check(r, f, id)
	if ref == nil {
		ref = admitted(r, id, admit)
	}
	if ref == nil {
		ref = checkUpgrade(r)
	}
	ext, extended := parseExtension(r.Header.Get(headerExtension))
	if ref == nil && ext.standby && d.serves(tunnel.ID(id)) {
		ref = &refusal{status: http.StatusConflict, reason: "standby: another agent is registered"}
	}
	if ref != nil {
		ref.answer(w)
		return nil, ref
	}

	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return nil, fmt.Errorf("websocktunnel: take over the conn: %w", err)
	}
	conn.SetDeadline(time.Time{})
	carrier.Tune(conn)
	opts := d.opts.Session
	if p, err := brw.Reader.Peek(brw.Reader.Buffered()); err == nil {
		opts.Buffered = bytes.Clone(p)
	}
	t := &serverTunnel{
		d:      d,
		id:     tunnel.ID(id),
		family: f,
		key:    r.Header.Get("Sec-Websocket-Key"),
	}
	if extended {
		opts.Extended, opts.PeerWindow = true, ext.window
		opts.MaxUnaccepted = max(opts.MaxUnaccepted, extendedUnaccepted)
		t.ext = &extension{window: defaultWindow, zeroMask: ext.zeroMask}
		opts.Window = t.ext.window
	}
	t.s = wsmux.New(conn, wsmux.Server, opts)
	d.register(t)
	if extended {
		return &extendedTunnel{t}, nil
	}
	return &plainTunnel{t}, nil
}

const (
	// defaultWindow is what a stream takes in at first between two sides with
	// the extension, in bytes.
	defaultWindow = 256 << 10

	// extendedUnaccepted bounds the streams that wait for an agent with the
	// extension; it takes thousands.
	extendedUnaccepted = 2048
)

// check looks at what comes before the token.
func check(r *http.Request, f *Family, id string) *refusal {
	bad := func(reason string) *refusal { return &refusal{status: http.StatusBadRequest, reason: reason} }
	switch {
	case !f.ValidID(id):
		return bad(fmt.Sprintf("id %.80q: it takes 1 to %d of letters, digits and _~.%%-", id, maxID))
	case !bearerPattern.MatchString(r.Header.Get("Authorization")):
		return bad("header Authorization is not Bearer and a token")
	case !carrier.IsUpgrade(r):
		return &refusal{status: http.StatusNotFound, text: "404 page not found", reason: "no upgrade to a WebSocket was asked for"}
	}
	return nil
}

// admitted asks admit about the token.
func admitted(r *http.Request, id string, admit dialect.AdmitFunc) *refusal {
	claim := auth.Claim{Token: bearerPattern.FindStringSubmatch(r.Header.Get("Authorization"))[1], ID: id}
	if remote, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		claim.Remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	}
	_, err := admit(r.Context(), claim)
	if err == nil {
		return nil
	}
	ref := &refusal{status: http.StatusUnauthorized, err: err}
	ae, ok := errors.AsType[*auth.Error](err)
	if !ok || ae.Code == auth.Busy {
		ref.status = http.StatusServiceUnavailable // agents try again
	}
	return ref
}

// checkUpgrade looks at the upgrade itself.
func checkUpgrade(r *http.Request) *refusal {
	if r.Method != http.MethodGet {
		return &refusal{status: http.StatusMethodNotAllowed, reason: "the method is not GET"}
	}
	version := false
	for _, v := range r.Header["Sec-Websocket-Version"] {
		for one := range strings.SplitSeq(v, ",") {
			version = version || strings.TrimSpace(one) == "13"
		}
	}
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-Websocket-Key"))
	switch {
	case !version:
		return &refusal{status: http.StatusBadRequest, reason: "upgrade: header Sec-WebSocket-Version is not 13"}
	case err != nil || len(key) != 16:
		return &refusal{status: http.StatusBadRequest, reason: "upgrade: header Sec-WebSocket-Key is not 16 bytes in base64"}
	}
	return nil
}

// serves reports whether an agent is registered under the ID.
func (d *Dialect) serves(id tunnel.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.live[id] != nil
}

// register makes t the agent of its ID until it ends.
func (d *Dialect) register(t *serverTunnel) {
	d.mu.Lock()
	d.live[t.id] = t
	d.mu.Unlock()
	t.s.OnEnd(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.live[t.id] == t {
			delete(d.live, t.id)
		}
	})
}

// A serverTunnel is what the tunnels to all agents have in common.
type serverTunnel struct {
	d      *Dialect
	s      *wsmux.Session
	id     tunnel.ID
	family *Family
	key    string     // of the handshake
	ext    *extension // that the agent is told of; nil without one
	hosted atomic.Bool
}

// Registered implements dialect.Registrant.
func (t *serverTunnel) Registered(b dialect.Bound, err error) {
	if err != nil {
		text := http.StatusText(http.StatusForbidden) + "\n"
		t.s.Reject(fmt.Appendf(nil, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\n"+
			"Connection: close\r\nContent-Length: %d\r\n\r\n%s", len(text), text))
		return
	}
	address := clean(t.d.opts.URL(t.family, string(t.id), b))
	_, rest, _ := strings.Cut(address, "://")
	t.hosted.Store(strings.HasPrefix(rest, string(t.id)+".") && !strings.Contains(rest, "/"))
	head := fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n%s: %s\r\n", wsframe.Accept(t.key), t.family.headerURL, address)
	if t.ext != nil {
		head = fmt.Appendf(head, "%s: %s\r\n", headerExtension, t.ext)
	}
	t.s.Start(append(head, "\r\n"...))
}

// clean makes text fit for a header's value.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}

func (t *serverTunnel) ID() tunnel.ID         { return t.id }
func (t *serverTunnel) Done() <-chan struct{} { return t.s.Done() }
func (t *serverTunnel) Close() error          { return t.s.Close() }

// Err returns why the tunnel has ended.
func (t *serverTunnel) Err() error { return t.s.Err() }

// Streams returns the number of open streams.
func (t *serverTunnel) Streams() int { return t.s.Streams() }

// HasHost reports whether the agent was told of a hostname of its own.
func (t *serverTunnel) HasHost() bool { return t.hosted.Load() }

// Instance makes the newest agent with an ID the only one of its dialect.
func (t *serverTunnel) Instance() string { return "websocktunnel" }

// PathHeader is the header field in which upstreams are told the path that a
// visitor asked for.
func (t *serverTunnel) PathHeader() string { return t.family.headerPath }

func (t *serverTunnel) Available() bool         { return t.s.Err() == nil }
func (t *serverTunnel) OnAvailability(f func()) { t.s.OnEnd(f) }
func (t *serverTunnel) Probe()                  { t.s.Probe() }
func (t *serverTunnel) Heard() time.Time        { return t.s.Heard() }

// End implements tunnel.Ender.
func (t *serverTunnel) End(code tunnel.EndCode, _ string) error {
	if code == tunnel.EndSuperseded {
		return t.s.Supersede()
	}
	return t.s.Close()
}

// A plainTunnel leads to an agent without the extension, such as an original.
type plainTunnel struct{ *serverTunnel }

// An extendedTunnel leads to an agent with the extension.
type extendedTunnel struct{ *serverTunnel }

var (
	_ tunnel.Tunnel       = (*plainTunnel)(nil)
	_ tunnel.Availability = (*plainTunnel)(nil)
	_ tunnel.Prober       = (*plainTunnel)(nil)
	_ tunnel.Ender        = (*plainTunnel)(nil)
	_ tunnel.Instancer    = (*plainTunnel)(nil)
	_ dialect.Registrant  = (*plainTunnel)(nil)
	_ tunnel.EarlyOpener  = (*extendedTunnel)(nil)
)

// OneRequest says that each stream is for one request: see plainStream.
func (t *plainTunnel) OneRequest() {}

func (t *plainTunnel) OpenStream(ctx context.Context, _ tunnel.StreamInfo) (net.Conn, error) {
	st, err := t.s.Open(ctx)
	if err != nil {
		return nil, err
	}
	return &plainStream{st}, nil
}

func (t *extendedTunnel) OpenStream(ctx context.Context, _ tunnel.StreamInfo) (net.Conn, error) {
	st, err := t.s.Open(ctx)
	if err != nil {
		return nil, err
	}
	return st, nil
}

func (t *extendedTunnel) OpenEarly(tunnel.StreamInfo) (net.Conn, error) {
	st, err := t.s.OpenEarly()
	if err != nil {
		return nil, err
	}
	return st, nil
}
