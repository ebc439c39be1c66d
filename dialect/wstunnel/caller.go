package wstunnel

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/http1"
)

const (
	callerBuffer = 4 << 10
	maxOwnHead   = 32 << 10 // longer ones are for net/http

	// callerWatch is how long an answer has to take for its caller to be
	// watched.
	callerWatch = 50 * time.Millisecond
)

// errCallerLeft is that of a request whose caller did not wait.
var errCallerLeft = errors.New("the caller has gone")

// A caller is a connection whose requests are plain, as long as they are.
type caller struct {
	f    *front
	s    *Server
	conn net.Conn
	addr string

	state atomic.Int32 // one of the states below

	in       []byte // in[r:w] was read and not used
	r, w     int
	out      []byte
	deadline time.Time // of reads, as set
	req      http1.Request
	head     bool // the request is HEAD
	reply    reply
	ex       *exchange // of the request in progress
	tunnel   *Tunnel
	watch    callerWatcher
}

// States of a caller.
const (
	callerIdles  = iota // it has no request that is to be answered
	callerWaits         // it has one
	callerLeaves        // its connection was closed while it had none
)

func newCaller(f *front, conn net.Conn) *caller {
	c := &caller{f: f, s: f.s, conn: conn, addr: conn.RemoteAddr().String(), in: make([]byte, callerBuffer)}
	c.watch.c = c
	return c
}

// serve answers requests until the connection ends, or is given away.
func (c *caller) serve() (given bool) {
	for {
		n, err := c.readHead()
		if err != nil {
			return false
		}
		if !c.state.CompareAndSwap(callerIdles, callerWaits) {
			return false
		}
		head := c.in[c.r : c.r+n]
		if n == 0 || c.req.Parse(head, http1.Limits{AnyTarget: true}) != nil || !c.plain() {
			return c.f.give(c.conn, c.in[c.r:c.w])
		}
		token, target := c.address()
		t, ok := c.s.Tunnel(token)
		if !ok {
			return c.f.give(c.conn, c.in[c.r:c.w])
		}
		if !c.relay(t, target, n) || !c.req.KeepAlive {
			return false
		}
		if c.state.Store(callerIdles); c.f.draining.Load() {
			return false
		}
	}
}

// readHead waits for the head of a request and returns its length; 0 is that of
// something that is none, or too long.
func (c *caller) readHead() (int, error) {
	if c.r == c.w {
		c.r, c.w = 0, 0
		if len(c.in) > callerBuffer {
			c.in = make([]byte, callerBuffer)
		}
	} else if c.r > 0 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	}
	var scan http1.Scanner
	for {
		if c.w > 0 {
			n, err := scan.Request(c.in[:c.w])
			switch {
			case err != nil:
				return 0, nil
			case n > 0:
				return n, nil
			case c.w >= maxOwnHead:
				return 0, nil
			}
			if c.w == len(c.in) {
				c.in = append(c.in, make([]byte, len(c.in))...)
			}
			c.setDeadline(headTime, 0)
		} else {
			c.setDeadline(callerIdle, callerIdle/8)
		}
		n, err := c.conn.Read(c.in[c.w:])
		c.w += n
		if n == 0 && err != nil {
			return 0, err
		}
	}
}

// setDeadline lets reads fail after d. One that is set already and leaves at
// most slack less is good enough.
func (c *caller) setDeadline(d, slack time.Duration) {
	now := time.Now()
	at := now.Add(d)
	if !c.deadline.IsZero() && !c.deadline.After(at) && at.Sub(c.deadline) <= slack {
		return
	}
	c.deadline = at
	c.conn.SetReadDeadline(at)
}

// plain reports whether the request is one that the caller carries itself.
func (c *caller) plain() bool {
	r := &c.req
	switch {
	case c.s.opts.Admit != nil || c.s.opts.BasePath != "", r.Minor != 1, r.Framing == http1.Chunked, r.Length > smallBody, c.in[c.r+len(r.Method)+1] != '/':
		return false
	case len(r.Target) > 1 && (r.Target[1] == '_' || r.Target[1] == '%') && !hasTokenPath(r.Target):
		return false // it may be one of the server's own paths
	}
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.Kind {
		case http1.Upgrade, http1.Expect, http1.TE, http1.Trailer, http1.TransferEncoding:
			return false
		case http1.Other:
			if http1.EqualFold(f.Name, "pragma") { // net/http makes another field of it
				return false
			}
		}
	}
	return true
}

const tokenPath = "/_token/"

func hasTokenPath(target []byte) bool {
	return len(target) >= len(tokenPath) && string(target[:len(tokenPath)]) == tokenPath
}

// address returns the token that the request names, or none, and what the local
// server is to get.
func (c *caller) address() (token, target string) {
	header := func(name string) string {
		v, _ := firstValue(c.req.Fields, name)
		return string(v)
	}
	token, target, err := c.s.locate(string(c.req.Target), header, string(c.req.Host))
	if err != nil {
		return "", ""
	}
	return token, target
}

// relay carries one request, whose head is n bytes long, and reports whether
// the connection is good for another.
func (c *caller) relay(t *Tunnel, target string, n int) bool {
	size := int(c.req.Length)
	c.head = string(c.req.Method) == http.MethodHead // while what Method is a part of is there
	ex := newExchange(string(c.req.Method), c.addr)
	ex.head = c.appendHead(make([]byte, 0, n+64+size), target)
	ex.ready = true
	xhost, _ := firstValue(c.req.Fields, "x-host")
	err := t.enter(ex)
	line := c.s.requestLog(t, ex, target, string(xhost))
	line.rcv()
	c.r += n
	if body := c.in[c.r:c.w]; size > 0 {
		body = body[:min(len(body), size)]
		ex.head = append(ex.head, body...)
		c.r += len(body)
		if rest := size - len(body); rest > 0 && !c.readBody(ex, rest) {
			if err == nil {
				t.leave(ex)
			}
			return false
		}
	}
	if err != nil {
		line.ret(statusOf(err), err)
		return c.refuse(err)
	}
	c.ex, c.tunnel = ex, t
	late := time.AfterFunc(t.opts.RequestTimeout, func() { t.stop(ex, errTimeout) })
	c.watch.start()
	got, err := t.carry(ex, nil, c.parse)
	late.Stop()
	if err != nil {
		gone := c.watch.stop()
		t.leave(ex)
		line.ret(statusOf(err), err)
		return !gone && c.refuse(err)
	}
	c.req.KeepAlive = c.req.KeepAlive && !c.f.draining.Load()
	gone, ended := false, false
	end := func() {
		if !ended {
			ended = true
			gone = c.watch.stop()
			got.end()
			t.leave(ex)
		}
	}
	err = c.answer(got, end)
	end()
	line.ret(c.reply.status, err)
	return err == nil && !gone
}

func (c *caller) parse(br *bufio.Reader) error { return c.reply.read(br, c.req.Method) }

// readBody reads the last n bytes of a request's body.
func (c *caller) readBody(ex *exchange, n int) bool {
	at := len(ex.head)
	ex.head = append(ex.head, make([]byte, n)...)
	for at < len(ex.head) {
		c.setDeadline(bodyIdle, 0)
		n, err := c.conn.Read(ex.head[at:])
		at += n
		if n == 0 && err != nil {
			return false
		}
	}
	return true
}

// appendHead appends the head of the message, as call.appendHead does.
func (c *caller) appendHead(b []byte, target string) []byte {
	r := &c.req
	agent, named := firstValue(r.Fields, "user-agent")
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.Host...)
	b = append(b, "\r\nUser-Agent: "...)
	if named {
		b = append(b, agent...)
	} else {
		b = append(b, defaultAgent...)
	}
	b = append(b, "\r\n"...)
	sized := false
	for i := range r.Fields {
		sized = sized || r.Fields[i].Kind == http1.ContentLength
	}
	if sized {
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, r.Length, 10), "\r\n"...)
	}
	sortFields(r.Fields)
	b = appendFields(b, r.Fields, func(f *http1.Field) bool {
		return f.Kind != http1.Host && f.Kind != http1.ContentLength && !(named && http1.EqualFold(f.Name, "user-agent"))
	})
	return append(b, "\r\n"...)
}

// refuse tells the caller what the server itself has to say.
func (c *caller) refuse(err error) bool {
	se := asStatusError(err)
	c.reply.set(se.Code, se.Text)
	var body []byte
	if se.Text != "" {
		body = []byte(se.Text + "\n")
	}
	c.out, _ = c.reply.appendHead(c.out[:0], body, true, c.head, c.req.KeepAlive)
	if !c.head {
		c.out = append(c.out, body...)
	}
	_, werr := c.conn.Write(c.out)
	return werr == nil
}

// answer sends the answer whose head has been read. It calls end before a write
// that needs nothing more of it.
func (c *caller) answer(got *received, end func()) error {
	p := &c.reply
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	first, whole, err := (*buf)[:0], p.length == 0, error(nil)
	switch {
	case whole:
	case p.length > 0 && got.spool == nil && got.br.Buffered() == 0:
		// The head has come ahead of the body.
	case p.length < 0 && got.spool != nil:
		var n int
		n, err = io.ReadFull(p.body, (*buf)[:gathered])
		first = (*buf)[:n]
		whole = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && got.spool.failure() == nil
	default:
		var n int
		n, err = p.body.Read((*buf)[:min(int64(len(*buf)), uint63(p.length))])
		first = (*buf)[:n]
		whole = errors.Is(err, io.EOF) && p.length < 0 && n == 0
	}
	if whole {
		err = nil
	}
	if err != nil && (!errors.Is(err, io.EOF) || p.length >= 0) && len(first) == 0 {
		return err
	}
	out, chunked := p.appendHead(c.out[:0], first, whole, c.head, c.req.KeepAlive)
	c.out = out
	if chunked {
		return c.answerChunks(first, err)
	}
	c.out = append(c.out, first...)
	if whole || p.length == int64(len(first)) {
		end()
	}
	if _, werr := c.conn.Write(c.out); werr != nil {
		return werr
	}
	for left := p.length - int64(len(first)); left > 0 && !whole; {
		if err != nil {
			return unexpectedEnd(err)
		}
		var n int
		n, err = p.body.Read((*buf)[:min(int64(len(*buf)), left)])
		if _, werr := c.conn.Write((*buf)[:n]); werr != nil {
			return werr
		}
		left -= int64(n)
	}
	return nil
}

// answerChunks sends the head that is in c.out, and a body that goes in chunks.
// err is that of the read that first came of.
func (c *caller) answerChunks(first []byte, err error) error {
	w := bufio.NewWriterSize(c.conn, 32<<10)
	w.Write(c.out)
	cw := httputil.NewChunkedWriter(w)
	if len(first) > 0 {
		cw.Write(first)
	}
	if err == nil {
		if err := w.Flush(); err != nil {
			return err
		}
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for err == nil {
		var n int
		n, err = c.reply.body.Read(*buf)
		if n > 0 {
			cw.Write((*buf)[:n])
		}
		if n > 0 && err == nil {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		w.Flush()
		return err
	}
	cw.Close()
	w.WriteString("\r\n")
	return w.Flush()
}

// uint63 is n, or a large number if n is negative.
func uint63(n int64) int64 { return int64(uint64(n) & (1<<63 - 1)) }

func unexpectedEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A callerWatcher sees in a second goroutine whether the caller is still there
// while it waits for an answer, by reading a byte of what it sends next.
type callerWatcher struct {
	c     *caller
	timer *time.Timer // nil until the first use
	done  chan struct{}

	mu      sync.Mutex // guards the fields below
	stopped bool       // must not begin to read
	reading bool

	byte [1]byte // what was read, if n is 1; the caller's after done
	n    int
	gone bool
}

// start begins to watch after a while, unless the caller has sent more already.
func (w *callerWatcher) start() {
	w.stopped, w.reading, w.n, w.gone = false, false, 0, false
	if w.timer == nil {
		w.done = make(chan struct{}, 1)
		w.timer = time.AfterFunc(callerWatch, w.run)
		return
	}
	w.timer.Reset(callerWatch)
}

func (w *callerWatcher) run() {
	defer func() { w.done <- struct{}{} }()
	w.mu.Lock()
	if w.stopped || w.c.r < w.c.w {
		w.mu.Unlock()
		return
	}
	w.reading = true
	w.c.conn.SetReadDeadline(time.Time{})
	w.mu.Unlock()
	n, err := w.c.conn.Read(w.byte[:])
	w.n = n
	if n == 0 && err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.gone = true
		w.c.tunnel.stop(w.c.ex, errCallerLeft)
	}
}

// stop ends the watch, and reports whether the caller has gone.
func (w *callerWatcher) stop() (gone bool) {
	if w.timer.Stop() {
		return false
	}
	w.mu.Lock()
	w.stopped = true
	if w.reading {
		w.c.conn.SetReadDeadline(time.Unix(1, 0))
	}
	w.mu.Unlock()
	<-w.done
	if w.reading {
		w.c.deadline = time.Time{}
		w.c.conn.SetReadDeadline(time.Time{})
	}
	if w.n > 0 {
		w.c.in[0], w.c.r, w.c.w = w.byte[0], 0, 1
	}
	return w.gone
}
