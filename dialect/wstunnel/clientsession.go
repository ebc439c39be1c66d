package wstunnel

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"adit/internal/backoff"
	"adit/internal/relay"
	"adit/internal/wsconn"
	"adit/session"
)

// early returns what br has read beyond the handshake.
func early(br *bufio.Reader) []byte {
	n := br.Buffered()
	if n == 0 {
		return nil
	}
	p, _ := br.Peek(n)
	return append([]byte(nil), p...)
}

// serveSession serves a session, which it gives other connections as long as it
// can be resumed.
func (c *Client) serveSession(ctx context.Context, conn net.Conn, br *bufio.Reader) error {
	s, err := session.Dial(ctx, wsconn.New(conn, wsconn.Client, wsconn.Options{Buffered: early(br)}), c.sessionOptions())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var own sync.WaitGroup
	own.Go(func() { c.acceptStreams(ctx, s) })
	own.Go(func() {
		c.opts.OnAlive()
		tick := time.NewTicker(c.opts.Timeout / 3)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if s.Attached() {
					c.opts.OnAlive()
				}
			case <-ctx.Done():
				return
			}
		}
	})
	c.resume(ctx, s)
	cancel()
	s.Close()
	own.Wait()
	return s.Err()
}

// resume gives s another connection each time that it has lost one, until the
// session or ctx ends.
func (c *Client) resume(ctx context.Context, s *session.Session) {
	b := backoff.Backoff{Min: redialMin, Max: redialMax / 4}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.Done():
			return
		case <-s.Detached():
		}
		c.opts.Log.Info("WS   connection lost")
		for attempt := 0; ; attempt++ {
			if attempt > 0 && b.Wait(ctx) != nil || s.Err() != nil {
				return
			}
			conn, br, native, err := c.dial(ctx, true)
			if err != nil {
				c.opts.Log.Error("Error opening connection", "err", err)
				continue
			}
			if !native {
				conn.Close() // the server is another one now
				return
			}
			if err := s.Resume(ctx, wsconn.New(conn, wsconn.Client, wsconn.Options{Buffered: early(br)})); err != nil {
				c.opts.Log.Error("Error opening connection", "err", err)
				continue
			}
			c.opts.Log.Info("WS   ready", "server", c.url.Host, "native", true)
			b.Reset()
			break
		}
	}
}

// acceptStreams serves each stream in a goroutine until the session ends, and
// waits for them.
func (c *Client) acceptStreams(ctx context.Context, s *session.Session) {
	w := newWorkers(func(st *session.Stream) { c.serveStream(ctx, st) })
	defer w.wait()
	for {
		st, err := s.Accept(ctx)
		if err != nil {
			return
		}
		w.give(st)
	}
}

// serveStream carries one request to a local server, and its answer back.
func (c *Client) serveStream(ctx context.Context, st *session.Stream) {
	id, err := parseID(st.Meta())
	if err != nil {
		st.Reset(resetAborted, "")
		return
	}
	limited := &io.LimitedReader{R: st, N: maxAnswerHead}
	br := readers.Get().(*bufio.Reader)
	br.Reset(limited)
	w := &streamWatch{br: br}
	e := errands.Get().(*errand)
	defer func() {
		st.Close()
		w.wait()
		e.done()
		br.Reset(nil)
		readers.Put(br)
	}()
	if !c.local.acquire(ctx) {
		return
	}
	defer c.local.release()
	plain, err := e.read(br, c.local.plain)
	switch {
	case err != nil:
		st.Reset(resetAborted, "")
	case plain:
		w.cancel = e.cut
		w.start()
		c.serveErrand(ctx, id, e, st)
	default:
		limited.N = 1 << 62
		c.serveRequest(ctx, id, br, w, st)
	}
}

// serveErrand carries a plain request.
func (c *Client) serveErrand(ctx context.Context, id uint16, e *errand, st *session.Stream) {
	own, err := e.run(ctx, c.local, id)
	switch {
	case err != nil:
		st.Reset(resetAborted, "")
		return
	case own != nil:
		c.writeResponse(id, own, string(e.req.Method), st)
		return
	}
	whole := false
	defer func() { e.finish(c.local.direct, whole) }()
	left, buffered := e.length, min(e.length, int64(e.conn.br.Buffered()))
	if buffered > 0 {
		p, _ := e.conn.br.Peek(int(buffered))
		e.out = append(e.out, p...)
		e.conn.br.Discard(len(p))
		left -= buffered
	}
	_, err = st.Write(e.out)
	if left > 0 && err == nil {
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		for left > 0 && err == nil {
			var n int
			n, err = e.conn.br.Read((*buf)[:min(left, int64(len(*buf)))])
			left -= int64(n)
			if _, werr := st.Write((*buf)[:n]); werr != nil {
				err = werr
			}
		}
	}
	if whole = left == 0; !whole {
		c.opts.Log.Error("HTTP request error", "id", requestID(id), "err", unexpectedEnd(err))
		st.Reset(resetAborted, "")
		return
	}
	st.CloseWrite()
}

// serveRequest carries any other request.
func (c *Client) serveRequest(ctx context.Context, id uint16, br *bufio.Reader, w *streamWatch, st *session.Stream) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.cancel = cancel
	req, err := http.ReadRequest(br)
	if err != nil {
		st.Reset(resetAborted, "")
		return
	}
	upgrade := hasToken(req.Header["Connection"], "upgrade") && req.Header.Get("Upgrade") != ""
	switch {
	case upgrade: // what follows is the other protocol's
	case req.ContentLength == 0:
		w.start()
	default:
		req.Body = &watchedBody{ReadCloser: req.Body, w: w}
	}
	resp := c.local.do(ctx, id, req, upgrade)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		head, _ := appendAnswerHead(make([]byte, 0, 1<<10), resp, req.Method)
		if rw, ok := resp.Body.(io.ReadWriteCloser); ok {
			if _, err := st.Write(head); err == nil {
				relay.Relay(&streamConn{Stream: st, r: br}, &localConn{rw: rw}, relay.Options{})
			}
		}
		return
	}
	c.writeResponse(id, resp, req.Method, st)
}

// writeResponse sends an answer, and closes its body.
func (c *Client) writeResponse(id uint16, resp *http.Response, method string, st *session.Stream) {
	defer resp.Body.Close()
	head, chunked := appendAnswerHead(make([]byte, 0, 1<<10), resp, method)
	if err := writeAnswer(st, head, resp, chunked); err != nil {
		c.opts.Log.Error("HTTP request error", "id", requestID(id), "err", err)
		st.Reset(resetAborted, "")
		return
	}
	st.CloseWrite()
}

// writeAnswer sends each part of the body as it comes.
func writeAnswer(st *session.Stream, head []byte, resp *http.Response, chunked bool) error {
	const room = 8 // for the size of a chunk and its line end
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b := *buf
	left := resp.ContentLength
	for {
		var n int
		err := io.EOF
		if chunked || left > 0 {
			n, err = resp.Body.Read(b[room : len(b)-2])
		}
		if n > 0 {
			p := b[room : room+n]
			left -= int64(n)
			if chunked {
				at := putChunkSize(b[:room], n)
				copy(b[room+n:], "\r\n")
				p = b[at : room+n+2]
			}
			if head != nil && len(head)+len(p) <= 4<<10 {
				p, head = append(head, p...), nil
			}
			if head != nil {
				if _, err := st.Write(head); err != nil {
					return err
				}
				head = nil
			}
			if _, err := st.Write(p); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return endAnswer(st, head, resp, chunked)
		case err != nil:
			return err
		case head != nil:
			continue
		case !chunked && left <= 0:
			return nil
		}
	}
}

func endAnswer(st *session.Stream, head []byte, resp *http.Response, chunked bool) error {
	if chunked {
		head = append(head, "0\r\n"...)
		for k, vs := range resp.Trailer {
			for _, v := range vs {
				head = append(appendValue(append(head, k+": "...), v), "\r\n"...)
			}
		}
		head = append(head, "\r\n"...)
	}
	if len(head) == 0 {
		return nil
	}
	_, err := st.Write(head)
	return err
}

// putChunkSize writes the size of a chunk to the end of b, and returns where it
// begins.
func putChunkSize(b []byte, n int) (at int) {
	const digits = "0123456789abcdef"
	at = len(b) - 2
	copy(b[at:], "\r\n")
	for {
		at--
		b[at] = digits[n&15]
		if n >>= 4; n == 0 {
			return at
		}
	}
}

// watchAfter is how long a request has to take for its caller to be watched.
const watchAfter = 20 * time.Millisecond

// A streamWatch notices that the caller has gone while nothing else reads its
// stream. Its start is called once at the most, and its wait at the end, when
// the stream is closed.
type streamWatch struct {
	br     *bufio.Reader
	cancel func()

	mu    sync.Mutex // guards the fields below
	timer *time.Timer
	done  chan struct{}
	ended bool
}

func (w *streamWatch) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || w.timer != nil {
		return
	}
	w.done = make(chan struct{})
	w.timer = time.AfterFunc(watchAfter, func() {
		defer close(w.done)
		if _, err := w.br.Peek(1); err != nil && !errors.Is(err, io.EOF) {
			w.cancel()
		}
	})
}

func (w *streamWatch) wait() {
	w.mu.Lock()
	w.ended = true
	timer := w.timer
	w.mu.Unlock()
	if timer != nil && !timer.Stop() {
		<-w.done
	}
}

// A watchedBody starts the watch at its end.
type watchedBody struct {
	io.ReadCloser
	w *streamWatch
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.w.start()
	}
	return n, err
}

// Close leaves the rest of the body to the stream's end.
func (b *watchedBody) Close() error { return nil }

// A localConn is the local server's side of what follows a 101.
type localConn struct {
	net.Conn
	rw io.ReadWriteCloser

	mu    sync.Mutex // guards timer
	timer *time.Timer
}

// lastWords is how long a local server has when its caller sends no more:
// net/http cannot pass on that end alone.
const lastWords = 5 * time.Second

// CloseWrite closes the connection, but not at once.
func (c *localConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer == nil {
		c.timer = time.AfterFunc(lastWords, func() { c.rw.Close() })
	}
	return nil
}

func (c *localConn) Read(p []byte) (int, error)  { return c.rw.Read(p) }
func (c *localConn) Write(p []byte) (int, error) { return c.rw.Write(p) }

func (c *localConn) Close() error {
	c.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	return c.rw.Close()
}

// SetDeadline and its like do nothing: relay clears deadlines, and there are
// none.
func (c *localConn) SetDeadline(time.Time) error      { return nil }
func (c *localConn) SetReadDeadline(time.Time) error  { return nil }
func (c *localConn) SetWriteDeadline(time.Time) error { return nil }
