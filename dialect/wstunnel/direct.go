package wstunnel

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"adit/internal/pacing"
)

// A direct carries plain requests over kept connections without the goroutines
// that net/http has for each, and leaves all others to that: those with TLS, a
// proxy, an upgrade, a body that is not small, or that wait for a 100.
type direct struct {
	other *http.Transport
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)

	mu    sync.Mutex // guards the fields below
	idle  map[string][]*directConn
	ended bool
}

const (
	// directIdle is how long a connection is kept. It is short: a server may
	// close it at any time, and a POST that meets that cannot be repeated.
	directIdle = time.Second

	directKept  = 256 // connections to one host
	directHosts = 64
)

// A directConn is a connection to a local server.
type directConn struct {
	net.Conn
	br    *bufio.Reader
	addr  string
	since time.Time // when it became idle
	used  bool
	buf   []byte
}

func newDirect(other *http.Transport) *direct {
	return &direct{
		other: other,
		dial:  (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, Control: pacing.Control}).DialContext,
		idle:  make(map[string][]*directConn),
	}
}

// RoundTrip implements http.RoundTripper.
func (d *direct) RoundTrip(req *http.Request) (*http.Response, error) {
	if a, ok := req.Context().Value(askedKey{}).(*asked); ok && a.c != nil {
		c := a.c
		a.c = nil
		if req.Body != nil {
			req.Body.Close()
		}
		resp, err := d.receive(c, req, context.AfterFunc(req.Context(), func() { c.SetDeadline(time.Unix(1, 0)) }))
		if err != nil {
			c.Close()
		}
		return resp, err
	}
	if !d.plain(req) {
		return d.other.RoundTrip(req)
	}
	var body []byte
	if req.ContentLength > 0 {
		body = make([]byte, req.ContentLength)
		if _, err := io.ReadFull(req.Body, body); err != nil {
			return nil, err
		}
		io.Copy(io.Discard, req.Body) // to the end that it does not know of yet
	}
	if req.Body != nil {
		req.Body.Close()
	}
	for {
		c, err := d.conn(req.Context(), address(req))
		if err != nil {
			return nil, err
		}
		resp, err := d.exchange(c, req, body)
		if err == nil {
			return resp, nil
		}
		c.Close()
		if stale := (*staleError)(nil); errors.As(err, &stale) {
			if idempotent(req.Method) && req.Context().Err() == nil {
				continue // the server had closed it
			}
			err = stale.err
		}
		if req.Context().Err() != nil {
			err = req.Context().Err()
		}
		return nil, err
	}
}

// plain reports whether d carries req itself.
func (d *direct) plain(req *http.Request) bool {
	switch {
	case !canQuiet, req.URL.Scheme != "http" || req.URL.User != nil,
		req.ContentLength < 0 || req.ContentLength > smallBody || req.ContentLength == 0 && req.Body != nil && req.Body != http.NoBody,
		len(req.Trailer) > 0,
		req.Header["Upgrade"] != nil || req.Header["Expect"] != nil:
		return false
	}
	if d.other.Proxy == nil {
		return true
	}
	via, err := d.other.Proxy(req)
	return err == nil && via == nil
}

func address(req *http.Request) string {
	if req.URL.Port() == "" {
		return net.JoinHostPort(req.URL.Hostname(), "80")
	}
	return req.URL.Host
}

// conn returns a connection that is kept, or a new one.
func (d *direct) conn(ctx context.Context, addr string) (*directConn, error) {
	for {
		d.mu.Lock()
		kept := d.idle[addr]
		if len(kept) == 0 {
			d.mu.Unlock()
			break
		}
		c := kept[len(kept)-1]
		kept[len(kept)-1] = nil
		d.idle[addr] = kept[:len(kept)-1]
		d.mu.Unlock()
		if time.Since(c.since) < directIdle && quiet(c.Conn) {
			c.used = true
			return c, nil
		}
		c.Close()
	}
	nc, err := d.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &directConn{Conn: nc, br: bufio.NewReaderSize(nc, 4<<10), addr: addr}, nil
}

// keep takes c back, and closes those that have been kept for too long.
func (d *direct) keep(c *directConn) {
	c.since = time.Now()
	var old []*directConn
	d.mu.Lock()
	kept := d.idle[c.addr]
	first := 0
	for first < len(kept) && c.since.Sub(kept[first].since) > directIdle {
		first++
	}
	if first > 0 {
		old = slices.Clone(kept[:first])
		kept = slices.Delete(kept, 0, first)
	}
	if d.ended || len(kept) >= directKept || len(kept) == 0 && len(d.idle) >= directHosts && d.idle[c.addr] == nil {
		old = append(old, c)
	} else {
		kept = append(kept, c)
	}
	d.idle[c.addr] = kept
	d.mu.Unlock()
	for _, c := range old {
		c.Close()
	}
}

// close closes what is kept.
func (d *direct) close() {
	d.mu.Lock()
	d.ended = true
	idle := d.idle
	d.idle = nil
	d.mu.Unlock()
	for _, kept := range idle {
		for _, c := range kept {
			c.Close()
		}
	}
}

// A staleError is that of a kept connection on which nothing came back.
type staleError struct{ err error }

func (e *staleError) Error() string { return e.err.Error() }
func (e *staleError) Unwrap() error { return e.err }

// exchange sends req on c and reads the answer's head.
func (d *direct) exchange(c *directConn, req *http.Request, body []byte) (*http.Response, error) {
	stop := context.AfterFunc(req.Context(), func() { c.SetDeadline(time.Unix(1, 0)) })
	c.buf = append(appendLocalHead(c.buf[:0], req, unzips(req)), body...)
	failed := func(err error) error {
		stop()
		if c.used {
			return &staleError{err}
		}
		return err
	}
	if c.br.Buffered() > 0 {
		return nil, failed(errors.New("the local server spoke before it was asked"))
	}
	if _, err := c.Write(c.buf); err != nil {
		return nil, failed(err)
	}
	if _, err := c.br.Peek(1); err != nil {
		return nil, failed(err)
	}
	return d.receive(c, req, stop)
}

// unzips reports whether the client asks for a smaller form than the caller.
func unzips(req *http.Request) bool {
	return req.Header["Accept-Encoding"] == nil && req.Header["Range"] == nil && req.Method != http.MethodHead
}

// receive reads the answer to req, which has been sent. stop ends what lets the
// request's context end that.
func (d *direct) receive(c *directConn, req *http.Request, stop func() bool) (*http.Response, error) {
	unzip := unzips(req)
	resp, err := http.ReadResponse(c.br, req)
	for err == nil && resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
		resp, err = http.ReadResponse(c.br, req)
	}
	if err != nil {
		stop()
		return nil, err
	}
	end := &directBody{ReadCloser: resp.Body, d: d, c: c, stop: stop, again: !resp.Close && !req.Close && resp.StatusCode != http.StatusSwitchingProtocols}
	if resp.ContentLength == 0 || req.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		end.atEnd = true
	}
	resp.Body = end
	if unzip && resp.Header.Get("Content-Encoding") == "gzip" && !end.atEnd {
		resp.Header.Del("Content-Encoding")
		resp.Header.Del("Content-Length")
		resp.ContentLength, resp.Uncompressed = -1, true
		resp.TransferEncoding = nil
		resp.Body = &unzipped{from: end}
	}
	return resp, nil
}

// appendLocalHead appends a request's head as net/http writes it.
func appendLocalHead(b []byte, req *http.Request, unzip bool) []byte {
	b = append(b, req.Method...)
	b = append(b, ' ')
	b = append(b, req.URL.RequestURI()...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, req.URL.Host...)
	b = append(b, "\r\nUser-Agent: "...)
	agent := defaultAgent
	if v, has := req.Header["User-Agent"]; has && len(v) > 0 {
		agent = v[0]
	}
	b = append(appendValue(b, agent), "\r\n"...)
	if req.Close {
		b = append(b, "Connection: close\r\n"...)
	}
	if req.ContentLength > 0 || req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch {
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, req.ContentLength, 10), "\r\n"...)
	}
	var few [32]string
	keys := few[:0]
	for k := range req.Header {
		switch k {
		case "User-Agent", "Content-Length", "Host", "Trailer", "Transfer-Encoding", "Connection":
		default:
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		for _, v := range req.Header[k] {
			b = append(append(b, k...), ": "...)
			b = append(appendValue(b, v), "\r\n"...)
		}
	}
	if unzip {
		b = append(b, "Accept-Encoding: gzip\r\n"...)
	}
	return append(b, "\r\n"...)
}

// A directBody gives its connection back at its end.
type directBody struct {
	io.ReadCloser
	d     *direct
	c     *directConn
	stop  func() bool
	again bool // the connection can be used again
	atEnd bool
	once  sync.Once
}

func (b *directBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.atEnd = true
	}
	return n, err
}

func (b *directBody) Close() error {
	b.once.Do(func() {
		// A deadline that was set stays, so that connection is not kept.
		if b.stop() && b.again && b.atEnd {
			b.d.keep(b.c)
		} else {
			b.c.Close()
		}
	})
	return nil
}

// An unzipped is a body of which the client asked for a smaller form.
type unzipped struct {
	from *directBody
	z    *gzip.Reader
}

func (u *unzipped) Read(p []byte) (int, error) {
	if u.z == nil {
		z, err := gzip.NewReader(u.from)
		if err != nil {
			return 0, err
		}
		u.z = z
	}
	return u.z.Read(p)
}

func (u *unzipped) Close() error { return u.from.Close() }
