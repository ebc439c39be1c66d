package wstunnel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"adit/session"
)

// headerSession is the field of the handshake by which two of our own find each
// other: the client offers, and the server agrees with the same. Its value is
// the version of what is spoken then: a native session, in which each stream
// carries one request and its answer in the form of HTTP/1.1.
const (
	headerSession  = "Adit-Session"
	sessionVersion = "1"
)

// resetAborted is what a stream is reset with whose request or answer broke off.
const resetAborted = 1

// A nativeLink is a client that is adit too.
type nativeLink struct {
	t *Tunnel
	s *session.Session
}

func (l *nativeLink) available() bool { return l.s.Available() }

// start implements link: each request has a stream of its own, so the caller's
// goroutine carries it.
func (l *nativeLink) start(ex *exchange) bool {
	ex.tellLocked(event{granted: l})
	return true
}

func (l *nativeLink) end() { l.s.Close() }

// run returns when the session has ended, and why.
func (l *nativeLink) run() error {
	<-l.s.Done()
	err := l.s.Err()
	l.s.Close()
	l.t.removeLink(l, nil)
	return err
}

// roundTrip carries one request. Its error is errEnded if the session ended
// before there was an answer.
func (l *nativeLink) roundTrip(ctx context.Context, ex *exchange, unblock func()) (*http.Response, error) {
	st, err := l.s.Open(nil)
	if err != nil {
		if l.s.Err() == nil && !errors.Is(err, session.ErrDraining) {
			return nil, errTooMany
		}
		return nil, errEnded
	}
	l.t.setSent(ex)
	stop := context.AfterFunc(ctx, func() { st.Reset(resetAborted, "") })
	if _, err := st.Write(ex.head); err != nil {
		stop()
		st.Close()
		return nil, l.lost(ctx, err)
	}
	var sending sync.WaitGroup
	var sent atomic.Bool
	if !ex.ready || ex.body != nil {
		sending.Go(func() {
			defer sent.Store(true)
			if l.sendBody(ex, st) != nil {
				st.Reset(resetAborted, "")
			}
		})
	}
	br := readers.Get().(*bufio.Reader)
	limited := &io.LimitedReader{R: st, N: maxAnswerHead}
	br.Reset(limited)
	var once sync.Once
	end := func() {
		once.Do(func() {
			stop()
			st.Reset(resetAborted, "") // does nothing if both sides have ended
			if !ex.ready && !sent.Load() {
				unblock()
			}
			sending.Wait()
			br.Reset(nil)
			readers.Put(br)
		})
	}
	req := &http.Request{Method: ex.call.method}
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		cause := l.lost(ctx, err)
		end()
		if !ex.ready && ex.call.body != nil && errors.Is(cause, errEnded) {
			return nil, errLost // a part of the body is gone
		}
		return nil, cause
	}
	limited.N = 1 << 62
	if resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &switchedStream{Stream: st, br: br, end: end}
		return resp, nil
	}
	resp.Body = &streamBody{ReadCloser: resp.Body, end: end}
	return resp, nil
}

// lost returns what the failure of a stream means.
func (l *nativeLink) lost(ctx context.Context, err error) error {
	var re *session.ResetError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case l.s.Err() != nil:
		return errEnded
	case errors.As(err, &re), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errLost
	}
	return errGarbage
}

func (t *Tunnel) setSent(ex *exchange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ex.sent = true
}

// sendBody sends the body, from the caller or from a spool that a link without
// streams has filled.
func (l *nativeLink) sendBody(ex *exchange, st *session.Stream) error {
	c := ex.call
	var err error
	switch {
	case ex.body != nil:
		_, err = io.Copy(st, &spoolReader{s: ex.body})
	case c.length >= 0:
		_, err = io.CopyN(st, c.body, c.length)
	default:
		err = copyChunks(st, c.body, &c.trailer)
	}
	return err
}

// A streamBody ends its stream when it is closed.
type streamBody struct {
	io.ReadCloser
	end func()
}

func (b *streamBody) Close() error {
	b.end()
	return nil
}

// A switchedStream is a stream after a 101.
type switchedStream struct {
	*session.Stream
	br  *bufio.Reader
	end func()
}

func (s *switchedStream) Read(p []byte) (int, error) { return s.br.Read(p) }

func (s *switchedStream) Close() error {
	s.end()
	return nil
}

// appendAnswerHead appends the head of an answer for a stream, and says whether
// its body goes in chunks.
func appendAnswerHead(b []byte, resp *http.Response, method string) (head []byte, chunked bool) {
	buf := bytes.NewBuffer(b)
	status := strings.TrimSpace(resp.Status)
	if len(status) < 3 {
		status = http.StatusText(resp.StatusCode)
	}
	buf.WriteString("HTTP/1.1 ")
	buf.WriteString(status)
	buf.WriteString("\r\n")
	resp.Header.Del("Transfer-Encoding")
	bodyless := method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified || resp.StatusCode == http.StatusSwitchingProtocols
	if !bodyless && resp.ContentLength < 0 {
		chunked = true
		resp.Header.Del("Content-Length")
		buf.WriteString("Transfer-Encoding: chunked\r\n")
		if len(resp.Trailer) > 0 {
			buf.WriteString("Trailer: " + strings.Join(names(resp.Trailer), ",") + "\r\n")
		}
	}
	resp.Header.Write(buf)
	buf.WriteString("\r\n")
	return buf.Bytes(), chunked
}
