package wstunnel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"adit/internal/http1"
)

// A plainLocal is a local server that plain requests go to without net/http.
type plainLocal struct {
	addr string // to dial
	host string // as in Host
	path string // in front of all targets
}

// newPlainLocal returns that of a default local server, and nil if there is
// none or it is not plain.
func newPlainLocal(base string, d *direct) *plainLocal {
	u, err := url.Parse(base + "/")
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil
	}
	req := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}}
	if !d.plain(req) {
		return nil
	}
	for i := range len(u.Path) {
		if !pathByte(u.Path[i]) || u.Path[i] == '%' {
			return nil
		}
	}
	return &plainLocal{addr: address(req), host: u.Host, path: strings.TrimSuffix(u.Path, "/")}
}

// An errand is a plain request to the default local server and its answer, and
// the memory for both. Whatever is not plain is left to a local's do.
type errand struct {
	in     []byte // the request's head, that req is parts of
	req    http1.Request
	send   []byte // what the local server gets
	body   int    // where the body begins in send
	resp   http1.Response
	head   []byte // the answer's head, that resp is parts of
	out    []byte // what goes into the tunnel
	length int64  // of the answer's body

	mu     sync.Mutex // guards the fields below
	conn   *directConn
	cancel func() // instead of conn, when net/http has that
	ended  bool   // cut was called
}

var errands = sync.Pool{New: func() any { return new(errand) }}

// maxErrand is the largest memory that is kept for the next errand, in bytes.
const maxErrand = 32 << 10

// done ends the errand, which cut is not called of any more.
func (e *errand) done() {
	if e.cancel != nil {
		e.cancel()
	}
	e.conn, e.cancel, e.ended = nil, nil, false
	if cap(e.in)+cap(e.send)+cap(e.head)+cap(e.out) <= maxErrand {
		errands.Put(e)
	}
}

// peekHead returns the head at the front of br, and nil if there is something
// else, or one that is longer than br's buffer. It has taken nothing from br.
func peekHead(br *bufio.Reader, scan func([]byte) (int, error)) ([]byte, error) {
	for want := 1; want <= br.Size(); want = br.Buffered() + 1 {
		if _, err := br.Peek(want); err != nil {
			return nil, err
		}
		b, _ := br.Peek(br.Buffered())
		switch n, err := scan(b); {
		case err != nil:
			return nil, nil
		case n > 0:
			return b[:n], nil
		}
	}
	return nil, nil
}

// read takes a request from br, if it is plain.
func (e *errand) read(br *bufio.Reader, to *plainLocal) (plain bool, err error) {
	var scan http1.Scanner
	head, err := peekHead(br, scan.Request)
	if head == nil || to == nil {
		return false, err
	}
	e.in = append(e.in[:0], head...)
	if e.req.Parse(e.in, http1.Limits{Fields: maxReplyFields}) != nil || !e.plain() {
		return false, nil
	}
	br.Discard(len(head))
	e.send = e.appendRequest(e.send[:0], to)
	e.body = len(e.send)
	if e.req.Length > 0 {
		e.send = append(e.send, make([]byte, e.req.Length)...)
		if _, err := io.ReadFull(br, e.send[e.body:]); err != nil {
			return false, unexpectedEnd(err)
		}
	}
	return true, nil
}

func (e *errand) plain() bool {
	r := &e.req
	if r.Minor != 1 || !r.KeepAlive || r.Framing == http1.Chunked || r.Length > smallBody || r.Target[0] != '/' {
		return false
	}
	for _, c := range r.Target {
		if c == '?' {
			break
		}
		if !pathByte(c) {
			return false
		}
	}
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.Kind {
		case http1.Upgrade, http1.Expect, http1.Trailer, http1.TransferEncoding:
			return false
		case http1.Other:
			if http1.EqualFold(f.Name, "x-host") || http1.EqualFold(f.Name, "pragma") {
				return false
			}
		}
	}
	return true
}

// appendRequest appends the head that the local server gets, as appendLocalHead
// does.
func (e *errand) appendRequest(b []byte, to *plainLocal) []byte {
	r := &e.req
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, to.path...)
	b = append(b, r.Target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, to.host...)
	b = append(b, "\r\nUser-Agent: "...)
	if agent, named := firstValue(r.Fields, "user-agent"); named {
		b = append(b, agent...)
	} else {
		b = append(b, defaultAgent...)
	}
	b = append(b, "\r\n"...)
	if r.Length > 0 || hasBody(r.Method) {
		b = appendLength(b, r.Length)
	}
	sortFields(r.Fields)
	b = appendFields(b, r.Fields, staysLocal)
	if e.unzips() {
		b = append(b, "Accept-Encoding: gzip\r\n"...)
	}
	return append(b, "\r\n"...)
}

// hasBody reports whether a request of that method has a body as a rule.
func hasBody(method []byte) bool {
	switch string(method) {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		return true
	}
	return false
}

func appendLength(b []byte, n int64) []byte {
	b = append(b, "Content-Length: "...)
	return append(strconv.AppendInt(b, n, 10), "\r\n"...)
}

// staysLocal reports whether a field of a request reaches the local server as
// it is. Names are in canonical form.
func staysLocal(f *http1.Field) bool {
	switch f.Kind {
	case http1.Host, http1.ContentLength, http1.Connection, http1.TE:
		return false
	case http1.HopByHop:
		switch string(f.Name) {
		case "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization":
			return false
		}
		return true
	}
	switch string(f.Name) {
	case "User-Agent", "X-Token", "Trailers":
		return false
	}
	return true
}

// unzips reports whether the client asks for a smaller form than the caller.
func (e *errand) unzips() bool {
	_, coded := firstValue(e.req.Fields, "accept-encoding")
	_, ranged := firstValue(e.req.Fields, "range")
	return !coded && !ranged && string(e.req.Method) != http.MethodHead
}

// run carries the errand to the local server. If own is not nil, it is the
// answer, whose body the caller closes. If both are nil, the answer's head is
// in e.out and its body, of e.length bytes, in e.conn, which the caller ends
// with finish.
func (e *errand) run(ctx context.Context, l *local, id uint16) (own *http.Response, err error) {
	logLine(l.opts.Log, "HTTP issuing request", slog.String("id", requestID(id)), slog.String("verb", string(e.req.Method)))
	for {
		c, err := l.direct.conn(ctx, l.plain.addr)
		if err == nil {
			err = e.hold(c)
		}
		stale := false
		if err == nil {
			stale, err = e.exchange(c)
		}
		switch {
		case err == nil && e.takes(l):
			c.br.Discard(len(e.head))
			logLine(l.opts.Log, "HTTP responded", slog.String("id", requestID(id)), slog.Int("status", e.resp.Status))
			return nil, nil
		case err == nil:
			return e.hand(ctx, l, id, c)
		}
		if c != nil {
			c.Close()
		}
		switch {
		case e.wasCut():
			return nil, errEnded
		case stale && idempotent(string(e.req.Method)):
			continue // the server had closed it
		}
		method := string(e.req.Method)
		err = &url.Error{Op: method[:1] + strings.ToLower(method[1:]), URL: "http://" + l.plain.host + l.plain.path + string(e.req.Target), Err: err}
		return l.failed(id, err, "HTTP/1.1"), nil
	}
}

// hold makes c the connection that cut ends.
func (e *errand) hold(c *directConn) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		c.Close()
		return errEnded
	}
	e.conn = c
	return nil
}

// cut ends the errand, from another goroutine.
func (e *errand) cut() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	switch {
	case e.cancel != nil:
		e.cancel()
	case e.conn != nil:
		e.conn.SetDeadline(time.Unix(1, 0))
	}
}

func (e *errand) wasCut() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ended
}

// exchange sends the request and waits for the head of the answer. e.head is
// empty if that is not one for package http1.
func (e *errand) exchange(c *directConn) (stale bool, err error) {
	if c.br.Buffered() > 0 {
		return c.used, errors.New("the local server spoke before it was asked")
	}
	if _, err := c.Write(e.send); err != nil {
		return c.used, err
	}
	if _, err := c.br.Peek(1); err != nil {
		return c.used, err
	}
	for {
		var scan http1.Scanner
		head, err := peekHead(c.br, scan.Response)
		e.head = append(e.head[:0], head...)
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return false, err
		case head == nil:
			return false, nil
		case e.resp.Parse(e.head, e.req.Method, http1.Limits{Fields: maxReplyFields}) != nil:
			e.head = e.head[:0]
			return false, nil
		case e.resp.Status >= 200 || e.resp.Status == http.StatusSwitchingProtocols:
			return false, nil
		}
		c.br.Discard(len(head))
	}
}

// takes reports whether the answer goes into the tunnel as it is, and if so
// makes its head.
func (e *errand) takes(l *local) bool {
	p := &e.resp
	if len(e.head) == 0 || p.Minor != 1 || !p.KeepAlive || p.Status < 200 || p.Status == http.StatusNoContent || p.Status == http.StatusNotModified ||
		p.Framing == http1.Chunked || p.Framing == http1.UntilClose {
		return false
	}
	announced := int64(-1)
	for i := range p.Fields {
		f := &p.Fields[i]
		switch {
		case f.Kind == http1.ContentLength && announced >= 0:
			return false // there are two
		case f.Kind == http1.ContentLength:
			n, err := strconv.ParseInt(string(f.Value), 10, 64)
			if err != nil {
				return false
			}
			announced = n
		case f.Kind == http1.Trailer:
			return false
		case f.Kind == http1.Location && p.Status >= 300 && p.Status < 400 && !l.opts.PassRedirects:
			return false
		case http1.EqualFold(f.Name, "content-encoding") && e.unzips():
			return false
		}
	}
	if announced < 0 {
		return false
	}
	e.length = p.Length
	e.out = e.appendAnswer(e.out[:0], announced)
	return true
}

// appendAnswer appends the answer's head as Response.Write does, which puts a
// length of 0 to the end unless the request was of a kind that has a body.
func (e *errand) appendAnswer(b []byte, announced int64) []byte {
	p := &e.resp
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(p.Status), 10)
	b = append(b, ' ')
	b = append(b, p.Reason...)
	b = append(b, "\r\n"...)
	first := announced > 0 || hasBody(e.req.Method)
	if first {
		b = appendLength(b, announced)
	}
	sortFields(p.Fields)
	b = appendFields(b, p.Fields, func(f *http1.Field) bool { return f.Kind != http1.ContentLength })
	if !first {
		b = appendLength(b, 0)
	}
	return append(b, "\r\n"...)
}

// hand leaves an answer, of which nothing has been taken, to net/http.
func (e *errand) hand(ctx context.Context, l *local, id uint16, c *directConn) (*http.Response, error) {
	req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(e.in), bytes.NewReader(e.send[e.body:]))))
	if err != nil {
		c.Close()
		return l.failed(id, err, "HTTP/1.1"), nil
	}
	out, refused := l.request(ctx, req, false)
	if refused != nil {
		c.Close()
		return refused, nil
	}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, askedKey{}, &asked{c: c}))
	e.mu.Lock()
	e.conn, e.cancel = nil, cancel // the connection may be somebody else's soon
	if e.ended {
		cancel()
	}
	e.mu.Unlock()
	out = out.WithContext(ctx)
	return l.ask(out, id, req.Proto), nil
}

// askedKey is the context key of a request that a local server has got already.
type askedKey struct{}

// An asked is a connection on which the answer to the first request comes.
type asked struct{ c *directConn }

// finish ends an errand whose answer run has left to the caller. whole says that
// all of its body was read.
func (e *errand) finish(d *direct, whole bool) {
	e.mu.Lock()
	c, ended := e.conn, e.ended
	e.conn = nil
	e.mu.Unlock()
	if whole && !ended {
		d.keep(c)
		return
	}
	c.Close()
}
