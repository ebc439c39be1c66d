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
	return t.do(req.Context(), c, "", unblock)
}

// do carries one request. unblock ends a Read of the call's body that may go on
// in a goroutine of do's; the answer's body waits for that when it is closed.
func (t *Tunnel) do(ctx context.Context, c *call, caller string, unblock func()) (*http.Response, error) {
	ex := &exchange{call: c, caller: caller, again: idempotent(c.method), events: make(chan event, 4)}
	if t.opts.RequestTimeout < 0 {
		return nil, errLate
	}
	if err := t.enter(ex); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(t.opts.RequestTimeout, func() { cancel(errTimeout) })
	end := func() {
		timer.Stop()
		cancel(nil)
		t.leave(ex)
	}
	resp, err := t.carry(ctx, ex, unblock)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		end()
		return nil, err
	}
	timer.Stop() // a transfer may take its time
	if rw, ok := resp.Body.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &switched{ReadWriteCloser: rw, end: end}
	} else {
		resp.Body = &answerBody{ReadCloser: resp.Body, end: end}
	}
	return resp, nil
}

// An answerBody ends the exchange when it is closed.
type answerBody struct {
	io.ReadCloser
	once sync.Once
	end  func()
}

func (b *answerBody) Close() (err error) {
	b.once.Do(func() {
		err = b.ReadCloser.Close()
		b.end()
	})
	return err
}

// A switched is what follows a 101.
type switched struct {
	io.ReadWriteCloser
	once sync.Once
	end  func()
}

func (b *switched) Close() (err error) {
	b.once.Do(func() {
		err = b.ReadWriteCloser.Close()
		b.end()
	})
	return err
}

// CloseWrite tells the client that the caller sends no more.
func (b *switched) CloseWrite() error {
	if hc, ok := b.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return nil
}

func (t *Tunnel) enter(ex *exchange) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed != nil:
		return t.closed
	case t.pending >= t.opts.MaxPending:
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

// carry submits ex until somebody has answered it.
func (t *Tunnel) carry(ctx context.Context, ex *exchange, unblock func()) (*http.Response, error) {
	c := ex.call
	ex.head = c.appendHead(make([]byte, 0, 512+max(0, min(c.length, smallBody))))
	if c.length >= 0 && c.length <= smallBody {
		if c.length > 0 {
			at := len(ex.head)
			ex.head = append(ex.head, make([]byte, c.length)...)
			if _, err := io.ReadFull(c.body, ex.head[at:]); err != nil {
				return nil, &bodyError{err}
			}
		}
		ex.ready = true
	}
	err := t.submit(ex)
	for err == nil {
		var ev event
		select {
		case ev = <-ex.events:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		switch {
		case ev.err != nil:
			return nil, ev.err
		case ev.answer != nil:
			resp, aerr := readAnswer(ctx, ex, ev.answer)
			if !errors.Is(aerr, errEnded) {
				return resp, aerr
			}
			err = t.retry(ex)
		case ev.lost:
			err = t.retry(ex)
		default:
			if ml, ok := ev.granted.(*messageLink); ok {
				if err = t.spoolBody(ex, ml); err == nil {
					err = t.submit(ex)
				}
				continue
			}
			resp, nerr := ev.granted.(*nativeLink).roundTrip(ctx, ex, unblock)
			if !errors.Is(nerr, errEnded) {
				return resp, nerr
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
func (t *Tunnel) spoolBody(ex *exchange, _ *messageLink) error {
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
func readAnswer(ctx context.Context, ex *exchange, s *spool) (*http.Response, error) {
	stop := context.AfterFunc(ctx, func() { s.finish(context.Cause(ctx)) })
	limited := &io.LimitedReader{R: &spoolReader{s: s}, N: maxAnswerHead}
	br := readers.Get().(*bufio.Reader)
	br.Reset(limited)
	resp, err := http.ReadResponse(br, &http.Request{Method: ex.call.method})
	done := func() {
		stop()
		s.free()
		br.Reset(nil)
		readers.Put(br)
	}
	if err == nil && (resp.StatusCode < 200 || resp.StatusCode > 999) {
		err = errGarbage
	}
	if err != nil {
		ended := s.failure()
		done()
		switch {
		case errors.Is(ended, errEnded):
			return nil, errEnded
		case errors.Is(ended, errBudget):
			return nil, errNoRoom
		case ended != nil:
			return nil, ended
		}
		return nil, errGarbage
	}
	limited.N = 1 << 62
	resp.Body = &messageBody{ReadCloser: resp.Body, done: done}
	return resp, nil
}

// A messageBody is the body of an answer that is a message.
type messageBody struct {
	io.ReadCloser
	done func()
}

// Close may be called once.
func (b *messageBody) Close() error {
	b.done() // the rest is in the spool, and need not be read
	return nil
}

// remoteOf returns the address of a RemoteAddr, or the zero one.
func remoteOf(addr string) netip.Addr {
	ap, _ := netip.ParseAddrPort(addr)
	return ap.Addr().Unmap()
}
