package wstunnel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync"
	"time"

	"adit/session"
)

const (
	// smallBody is the longest body that becomes a part of its request's
	// head, in bytes, and so can be sent as often as that.
	smallBody = 64 << 10

	// maxSends is how often a request is sent that can be repeated.
	maxSends = 3

	// maxAnswerHead bounds the head of an answer, in bytes.
	maxAnswerHead = 1 << 20
)

// RoundTrip sends req to the client, and waits for one if there is none. The
// error is a *StatusError if the server knows what to tell the caller, or the
// context's.
func (t *Tunnel) RoundTrip(req *http.Request) (*http.Response, error) {
	header := req.Header
	if header == nil {
		header = http.Header{}
	}
	c := &call{
		method: req.Method, target: req.URL.RequestURI(), host: req.Host, header: header,
		length: req.ContentLength, trailer: req.Trailer, close: req.Close, body: req.Body,
	}
	if c.host == "" {
		c.host = req.URL.Host
	}
	if req.Body == nil || req.Body == http.NoBody {
		c.length, c.body = 0, nil
	}
	unblock := func() {}
	if req.Body != nil {
		defer func() {
			if c.length == 0 {
				req.Body.Close()
			}
		}()
		unblock = func() { req.Body.Close() }
	}
	ex := newExchange(c.method, "")
	ex.call = c
	if err := t.enter(ex); err != nil {
		return nil, err
	}
	resp, err := t.do(req.Context(), ex, unblock)
	if err != nil {
		return nil, err
	}
	resp.Request = req
	return resp, nil
}

func newExchange(method, caller string) *exchange {
	// There is room for a grant, an answer, a loss, and a stop.
	return &exchange{method: method, caller: caller, again: idempotent(method), events: make(chan event, 5)}
}

// do carries one request, which has its place among those that are pending.
// unblock ends a Read of the call's body that may go on in a goroutine of do's;
// the answer's body waits for that when it is closed.
func (t *Tunnel) do(ctx context.Context, ex *exchange, unblock func()) (*http.Response, error) {
	release := context.AfterFunc(ctx, func() { t.stop(ex, context.Cause(ctx)) })
	late := time.AfterFunc(t.opts.RequestTimeout, func() { t.stop(ex, errTimeout) })
	end := func() {
		late.Stop()
		release()
		t.leave(ex)
	}
	var resp *http.Response
	ex.prepare()
	got, err := t.carry(ex, unblock, func(br *bufio.Reader) (err error) {
		resp, err = http.ReadResponse(br, &http.Request{Method: ex.method})
		if err == nil && (resp.StatusCode > 999 || resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols) {
			err = errGarbage
		}
		return err
	})
	if err != nil {
		end()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	late.Stop() // a transfer may take its time
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if got.stream == nil {
			got.end()
			end()
			return nil, errGarbage
		}
		resp.Body = &switched{st: got, end: end}
	} else {
		resp.Body = &answerBody{ReadCloser: resp.Body, got: got, end: end}
	}
	return resp, nil
}

// An answerBody ends the exchange when it is closed.
type answerBody struct {
	io.ReadCloser
	got  *received
	once sync.Once
	end  func()
}

// Close leaves the rest of the body unread.
func (b *answerBody) Close() error {
	b.once.Do(func() {
		b.got.end()
		b.end()
	})
	return nil
}

// A switched is what follows a 101.
type switched struct {
	st   *received
	once sync.Once
	end  func()
}

func (b *switched) Read(p []byte) (int, error)  { return b.st.br.Read(p) }
func (b *switched) Write(p []byte) (int, error) { return b.st.stream.Write(p) }

func (b *switched) Close() error {
	b.once.Do(func() {
		b.st.end()
		b.end()
	})
	return nil
}

// CloseWrite tells the client that the caller sends no more.
func (b *switched) CloseWrite() error { return b.st.stream.CloseWrite() }

func (t *Tunnel) enter(ex *exchange) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed != nil:
		return t.closed
	case t.opts.RequestTimeout < 0:
		return errLate
	case t.pending >= t.opts.MaxPending, !t.claimIDLocked(ex):
		return errTooMany
	}
	t.pending++
	t.newest = ex
	return nil
}

func (t *Tunnel) leave(ex *exchange) {
	t.retire(ex)
	if ex.body != nil {
		ex.body.free()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending--
	if t.newest == ex {
		t.newest = nil
	}
}

// prepare makes the head of the call, with the body if that is small and there.
func (ex *exchange) prepare() {
	c := ex.call
	ex.head = c.appendHead(make([]byte, 0, 512+max(0, min(c.length, smallBody))))
	ex.ready = c.length == 0
}

// A received is an answer whose head has been read. Its end is called once.
type received struct {
	t      *Tunnel
	ex     *exchange
	br     *bufio.Reader // the answer
	limit  io.LimitedReader
	spool  *spool          // of a message; nil if it is a stream's
	stream *session.Stream // nil if it is a message
	upload *upload         // nil unless a body is sent beside the answer
}

// end gives back what the answer holds. The rest of it need not be read.
func (g *received) end() {
	g.t.cutWith(g.ex, nil)
	if g.stream != nil {
		g.stream.Reset(resetAborted, "") // does nothing if both sides have ended
	}
	if g.upload != nil {
		g.upload.end()
	}
	if g.spool != nil {
		g.spool.free()
	}
	g.br.Reset(nil)
	readers.Put(g.br)
}

// carry submits ex until somebody has answered it. parse reads the head of the
// answer.
func (t *Tunnel) carry(ex *exchange, unblock func(), parse func(*bufio.Reader) error) (*received, error) {
	if !ex.ready && ex.call.length > 0 && ex.call.length <= smallBody {
		c, at := ex.call, len(ex.head)
		ex.head = append(ex.head, make([]byte, c.length)...)
		if _, err := io.ReadFull(c.body, ex.head[at:]); err != nil {
			return nil, &bodyError{err}
		}
		ex.ready = true
	}
	err := t.submit(ex)
	for err == nil {
		switch ev := <-ex.events; {
		case ev.err != nil:
			return nil, ev.err
		case ev.answer != nil:
			got, aerr := t.readAnswer(ex, ev.answer, parse)
			if !errors.Is(aerr, errEnded) {
				return got, aerr
			}
			err = t.retry(ex)
		case ev.lost:
			err = t.retry(ex)
		default:
			if _, ok := ev.granted.(*messageLink); ok {
				if err = t.spoolBody(ex); err == nil {
					err = t.submit(ex)
				}
				continue
			}
			got, nerr := ev.granted.(*nativeLink).roundTrip(ex, unblock, parse)
			if !errors.Is(nerr, errEnded) {
				return got, nerr
			}
			err = t.retry(ex)
		}
	}
	return nil, err
}

// A bodyError is a fault of the caller.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "read the request's body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// retry submits ex again, after its link has ended, if that does no harm.
func (t *Tunnel) retry(ex *exchange) error {
	t.mu.Lock()
	sent := ex.sent
	ex.sent = false
	t.mu.Unlock()
	switch {
	case sent && !ex.again:
		return errLost
	case sent:
		if ex.sends++; ex.sends >= maxSends {
			return errRetries
		}
	}
	return t.resubmit(ex)
}

// spoolBody reads the body, since a message has to be whole before it is begun:
// nothing else can be sent meanwhile.
func (t *Tunnel) spoolBody(ex *exchange) error {
	if ex.ready {
		return nil
	}
	c := ex.call
	limit := min(t.opts.MaxBody, MaxMessage-idSize-int64(len(ex.head)))
	if c.length > limit {
		return errTooLarge
	}
	ex.body = newSpool(t.rooms)
	var to io.Writer = &limitedWriter{w: ex.body, left: limit}
	var err error
	if c.length >= 0 {
		_, err = io.CopyN(to, c.body, c.length)
	} else {
		err = copyChunks(to, c.body, &c.trailer)
	}
	ex.body.finish(nil)
	var se *StatusError
	switch {
	case err == nil:
		ex.ready = true
		return nil
	case errors.Is(err, errBudget):
		return errNoRoom
	case errors.As(err, &se):
		return se
	}
	return &bodyError{err}
}

// copyChunks writes body as chunks, and what trailer holds at its end.
func copyChunks(to io.Writer, body io.Reader, trailer *http.Header) error {
	cw := httputil.NewChunkedWriter(to)
	if _, err := io.Copy(cw, body); err != nil {
		return err
	}
	if err := cw.Close(); err != nil {
		return err
	}
	var end bytes.Buffer
	trailer.Write(&end)
	end.WriteString("\r\n")
	_, err := to.Write(end.Bytes())
	return err
}

// A limitedWriter refuses what is too large.
type limitedWriter struct {
	w    io.Writer
	left int64
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, errTooLarge
	}
	return l.w.Write(p)
}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// readAnswer reads the head of an answer that is a message. Its error is
// errEnded if the link ended before that was there.
func (t *Tunnel) readAnswer(ex *exchange, s *spool, parse func(*bufio.Reader) error) (*received, error) {
	got := &received{t: t, ex: ex, spool: s, br: readers.Get().(*bufio.Reader)}
	got.limit = io.LimitedReader{R: &spoolReader{s: s}, N: maxAnswerHead}
	got.br.Reset(&got.limit)
	stopped := t.cutWith(ex, s.finish)
	if stopped == nil {
		if parse(got.br) == nil {
			got.limit.N = 1 << 62
			return got, nil
		}
		stopped = t.stoppedBy(ex)
	}
	ended := s.failure()
	got.end()
	switch {
	case stopped != nil:
		return nil, stopped
	case errors.Is(ended, errBudget):
		return nil, errNoRoom
	case ended != nil:
		return nil, ended
	}
	return nil, errGarbage
}

// remoteOf returns the address of a RemoteAddr, or the zero one.
func remoteOf(addr string) netip.Addr {
	ap, _ := netip.ParseAddrPort(addr)
	return ap.Addr().Unmap()
}
