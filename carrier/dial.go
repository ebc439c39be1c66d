package carrier

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"adit/internal/wayout"
	"adit/internal/wsconn"
)

// DefaultTimeout bounds a Dial if Dialer says nothing else.
const DefaultTimeout = 30 * time.Second

// A Dialer opens carriers to a server. Its fields must not be changed while it
// is used; its methods are safe for concurrent use.
type Dialer struct {
	// URL is where the server takes WebSockets: ws or wss, for which http and
	// https stand too, a host in ASCII, and an optional port, path and query.
	// It must not contain a user or password; put credentials into Header.
	URL string

	// Header is sent along, with Authorization for instance. The headers that
	// make up the upgrade, and Host, cannot be set. No value of it appears in
	// an error.
	Header http.Header

	// TLS configures TLS for wss. It may be nil. NextProtos is always
	// http/1.1 alone, since the upgrade needs it, and MinVersion at least TLS
	// 1.2.
	TLS *tls.Config

	// Out is the way out: through a proxy, perhaps. If nil, there is none.
	Out *wayout.Dialer

	// DialContext opens the conn to addr, a host and port, over network
	// "tcp": that of the server, or of Out's proxy. If nil, Out does that
	// itself. The conn should be a socket or have a method NetConn that
	// leads to one.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Host is sent instead of the host and port in URL, to which the conn
	// leads all the same.
	Host string

	// Subprotocol is offered to the server, which then must choose it. Empty
	// offers none.
	Subprotocol string

	// Timeout bounds the whole of Dial, besides ctx; 0 means DefaultTimeout.
	Timeout time.Duration

	// ZeroMask offers the server to mask with the key 0, where nobody between
	// could mistake the bytes for HTTP: over TLS and on loopback. See
	// wsconn.Options.
	ZeroMask bool

	// MaxFrame is as in wsconn.Options.
	MaxFrame int64

	// Verify is how long the server may take to answer a ping, without which
	// Dial does not believe that the WebSocket carries anything; 0 means that
	// there is none.
	Verify time.Duration

	// Connected is called for each conn that has reached the server, with TLS
	// if there is that, before anything is asked of it; nil is not called. It
	// must not block.
	Connected func()
}

// A Phase is a part of Dial that can fail on its own.
type Phase string

const (
	PhaseDial    Phase = "dial tcp"
	PhaseTLS     Phase = "tls handshake"
	PhaseUpgrade Phase = "upgrade"
)

// A DialError tells how far Dial got.
type DialError struct {
	Phase  Phase
	Target string // the address dialled, or the name that the server's certificate must have
	Err    error  // ctx's error if that ended the phase; a *StatusError if the server refused
}

func (e *DialError) Error() string {
	link := " "
	switch e.Phase {
	case PhaseTLS:
		link = " with "
	case PhaseUpgrade:
		link = " at "
	}
	return "carrier: " + string(e.Phase) + link + e.Target + ": " + e.Err.Error()
}

// Unwrap returns e.Err.
func (e *DialError) Unwrap() error { return e.Err }

// Dial opens a conn to the server and makes it a WebSocket. ctx bounds all of
// it, and does not touch the conn that is returned; the caller closes that.
//
// An error in the Dialer's own fields names the field. Any other is a
// *DialError.
func (d *Dialer) Dial(ctx context.Context) (*wsconn.Conn, error) {
	t, err := d.check()
	if err != nil {
		return nil, err
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	conn, dialled, err := d.connect(ctx, t, "http/1.1")
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { dialled.Close() })
	defer stop()
	offer := d.ZeroMask && nobodyBetween(conn, t)
	buffered, zeroMask, err := d.upgrade(conn, t, offer)
	if err == nil && d.Verify > 0 {
		buffered, err = verify(conn, buffered, d.Verify)
	}
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		dialled.Close() // not conn: TLS would wait to say goodbye
		return nil, failed(ctx, PhaseUpgrade, t.addr, err)
	}
	Tune(conn)
	return wsconn.New(conn, wsconn.Client, wsconn.Options{Buffered: buffered, MaxFrame: d.MaxFrame, ZeroMask: zeroMask}), nil
}

// bound returns ctx with the Dialer's timeout.
func (d *Dialer) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := d.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	return context.WithTimeout(ctx, timeout)
}

// Check reports what is wrong with the Dialer's own fields.
func (d *Dialer) Check() error {
	_, err := d.check()
	return err
}

func (d *Dialer) check() (*target, error) {
	t, err := d.target()
	if err != nil {
		return nil, err
	}
	return t, d.checkHeader()
}

// ownHeaders are the headers that a Dialer's user cannot set.
var ownHeaders = []string{
	"Host", "Connection", "Upgrade", "Content-Length", "Transfer-Encoding", "Trailer", "Te",
	hdrKey, hdrVersion, hdrProtocol, hdrExtend, hdrAccept, hdrMask,
}

// checkHeader judges Header, Host and Subprotocol. Of Header it tells names and
// no values.
func (d *Dialer) checkHeader() error {
	if strings.ContainsFunc(d.Host, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("carrier: host %q: must be in ASCII, an international name in its xn-- form", d.Host)
	}
	for name, values := range d.Header {
		if !validToken(name) {
			return fmt.Errorf("carrier: header %q: not a header name", name)
		}
		if slices.Contains(ownHeaders, http.CanonicalHeaderKey(name)) {
			return fmt.Errorf("carrier: header %q: set by the carrier itself", name)
		}
		if !slices.ContainsFunc(values, func(v string) bool { return !validValue(v) }) {
			continue
		}
		return fmt.Errorf("carrier: header %q: its value has a control character", name)
	}
	if d.Subprotocol != "" && !validToken(d.Subprotocol) {
		return fmt.Errorf("carrier: subprotocol %q: must be a token of letters, digits, dots and dashes", d.Subprotocol)
	}
	return nil
}

// upgrade asks the server at the other end of conn for a WebSocket. It returns
// what conn already yielded after the server's consent.
func (d *Dialer) upgrade(conn net.Conn, t *target, offer bool) (buffered []byte, zeroMask bool, err error) {
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	if _, err := conn.Write(d.request(t, key, offer)); err != nil {
		return nil, false, fmt.Errorf("send request: %w", err)
	}
	a := newAnswer(conn, d.secrets(t))
	if err := a.read(); err != nil {
		return nil, false, err
	}
	if a.resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, false, a.statusError()
	}
	h := a.resp.Header
	switch {
	case !hasToken(h, "Upgrade", "websocket"):
		return nil, false, errors.New(`answer lacks "Upgrade: websocket"`)
	case !hasToken(h, "Connection", "upgrade"):
		return nil, false, errors.New(`answer lacks "Connection: Upgrade"`)
	case len(h[hdrAccept]) != 1 || h[hdrAccept][0] != acceptFor(key):
		return nil, false, errors.New("answer has the wrong Sec-WebSocket-Accept; something between may have replayed it")
	case len(h[hdrExtend]) > 0:
		return nil, false, errors.New("answer has WebSocket extensions, and none was offered")
	}
	switch got := h[hdrProtocol]; {
	case len(got) == 0 && d.Subprotocol == "":
	case len(got) == 0:
		return nil, false, fmt.Errorf("server did not choose the subprotocol %q", d.Subprotocol)
	case len(got) > 1 || got[0] != d.Subprotocol:
		return nil, false, fmt.Errorf("server chose the subprotocol %q, want %q", a.clean(strings.Join(got, ", "), 60), d.Subprotocol)
	}
	return a.rest(), offer && h.Get(hdrMask) == maskZero, nil
}

// request returns the upgrade's request (RFC 6455, section 4.1).
func (d *Dialer) request(t *target, key string, offer bool) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\n", t.uri, cmp.Or(d.Host, t.host))
	b.WriteString("Upgrade: websocket\r\nConnection: Upgrade\r\n")
	fmt.Fprintf(&b, "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: %s\r\n", key, version)
	if d.Subprotocol != "" {
		fmt.Fprintf(&b, "Sec-WebSocket-Protocol: %s\r\n", d.Subprotocol)
	}
	if offer {
		fmt.Fprintf(&b, "%s: %s\r\n", hdrMask, maskZero)
	}
	if d.Header.Get("User-Agent") == "" {
		b.WriteString("User-Agent: adit\r\n") // some firewalls turn away requests without
	}
	d.Header.Write(&b)
	b.WriteString("\r\n")
	return []byte(b.String())
}

// secrets returns what must not appear in an error though the server may send
// it back, longest first, so that no part of one remains.
func (d *Dialer) secrets(t *target) []string {
	var all []string
	add := func(s string, least int) {
		if len(s) >= least { // shorter ones would blot out ordinary words
			all = append(all, s)
		}
	}
	for _, values := range d.Header {
		for _, v := range values {
			add(v, 6)
			for part := range strings.FieldsFuncSeq(v, func(r rune) bool { return strings.ContainsRune(" ;,=\"", r) }) {
				add(part, 6)
			}
		}
	}
	path, query, _ := strings.Cut(t.uri, "?")
	for segment := range strings.SplitSeq(path, "/") {
		add(segment, 16)
	}
	for field := range strings.SplitSeq(query, "&") {
		name, v, ok := strings.Cut(field, "=")
		if !ok {
			v = name
		}
		add(v, 6)
	}
	for _, values := range t.query {
		for _, v := range values {
			add(v, 6)
		}
	}
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) })
	return all
}
