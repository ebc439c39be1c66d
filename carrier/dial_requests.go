package carrier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"adit/carrier/requests"
)

// connsAtRest is how many connections a carrier of requests keeps for the next
// ones.
const connsAtRest = 16

// PhaseOpen is the first request of a carrier that is made of requests.
const PhaseOpen Phase = "open"

// DialRequests opens a carrier that is made of HTTP requests, of which all but
// the first go to path. Dialer's fields mean the same as for Dial, but
// Subprotocol, ZeroMask and MaxFrame mean nothing, and TLS may lead to HTTP/2;
// Authorization is sent with the first request alone. So are the errors;
// requests.ErrHeldBack is among them.
func (d *Dialer) DialRequests(ctx context.Context, kind requests.Kind, path string) (net.Conn, error) {
	t, err := d.check()
	if err != nil {
		return nil, err
	}
	ctx, cancel := d.bound(ctx)
	defer cancel()
	o, err := requests.NewOpening(kind)
	if err != nil {
		return nil, err
	}
	w, err := d.way(t)
	if err != nil {
		return nil, err
	}
	answer, err := w.open(ctx, kind, o.Body())
	if err == nil {
		var conn net.Conn
		if conn, err = o.Conn(ctx, answer, w.options(path)); err == nil {
			return conn, nil
		}
	}
	w.transport.CloseIdleConnections()
	if de := (*DialError)(nil); errors.As(err, &de) {
		return nil, de
	}
	return nil, failed(ctx, PhaseOpen, t.addr, err)
}

// A way is how the requests of one carrier get to the server.
type way struct {
	d         *Dialer
	t         *target
	url       url.URL
	transport *http.Transport
	jar       *cookiejar.Jar // load balancers say by cookies who is to have the next request

	local, remote atomic.Pointer[net.Addr] // of the connection that was used last
}

func (d *Dialer) way(t *target) (*way, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(d.URL)
	if err != nil {
		return nil, err // target has parsed it
	}
	u.Scheme = "http"
	if t.secure {
		u.Scheme = "https"
	}
	w := &way{d: d, t: t, url: *u, jar: jar}
	w.transport = &http.Transport{
		DialContext:            w.dial,
		DialTLSContext:         w.dial,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConns:           connsAtRest,
		MaxIdleConnsPerHost:    connsAtRest,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: maxHead,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
	}
	return w, nil
}

// dial opens a connection to the server, whatever the transport thinks that it
// has to be.
func (w *way) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	conn, _, err := w.d.connect(ctx, w.t, "h2", "http/1.1")
	if err != nil {
		return nil, err
	}
	Tune(conn)
	return conn, nil
}

// open makes the first request, and returns what the answer has as its body.
func (w *way) open(ctx context.Context, kind requests.Kind, body []byte) ([]byte, error) {
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		local, remote := info.Conn.LocalAddr(), info.Conn.RemoteAddr()
		w.local.Store(&local)
		w.remote.Store(&remote)
	}}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodPost, w.url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the URL cannot be asked for")
	}
	r.Header = w.header()
	for name, values := range w.d.Header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	r.Header.Set(requests.Header, string(kind))
	r.Header.Set("Content-Type", "application/octet-stream")
	if w.d.Host != "" {
		r.Host = w.d.Host
	}
	resp, err := w.roundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		a := &answer{resp: resp, secrets: w.d.secrets(w.t)}
		return nil, a.statusErrorOf(io.LimitReader(resp.Body, maxBody))
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, int64(requests.AnswerSize)+1))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	return b, nil
}

// header returns the fields of all requests.
func (w *way) header() http.Header {
	h := make(http.Header)
	for name, values := range w.d.Header {
		if name = http.CanonicalHeaderKey(name); name != "Authorization" {
			h[name] = values
		}
	}
	if h.Get("User-Agent") == "" {
		h.Set("User-Agent", "adit") // some firewalls turn away requests without
	}
	return h
}

// roundTrip makes a request, with the cookies that the server wants back.
func (w *way) roundTrip(r *http.Request) (*http.Response, error) {
	for _, c := range w.jar.Cookies(r.URL) {
		r.AddCookie(c)
	}
	resp, err := w.transport.RoundTrip(r)
	if err == nil {
		if cookies := resp.Cookies(); len(cookies) > 0 {
			w.jar.SetCookies(r.URL, cookies)
		}
	}
	return resp, err
}

// options are those of the carrier, whose requests go to path.
func (w *way) options(path string) requests.ConnOptions {
	u := w.url
	u.Path, u.RawPath = path, ""
	o := requests.ConnOptions{
		URL:       u.String(),
		Host:      w.d.Host,
		Header:    w.header(),
		RoundTrip: w.roundTrip,
		Close:     w.transport.CloseIdleConnections,
		Local:     &net.TCPAddr{},
		Remote:    &net.TCPAddr{},
	}
	if a := w.local.Load(); a != nil {
		o.Local = *a
	}
	if a := w.remote.Load(); a != nil {
		o.Remote = *a
	}
	return o
}
