package wstunnel

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
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
func (l *nativeLink) roundTrip(ex *exchange, unblock func(), parse func(*bufio.Reader) error) (*received, error) {
	var id [idSize]byte
	st, err := l.s.Open(putID(id[:0], ex.id))
	if err != nil {
		if l.s.Err() == nil && !errors.Is(err, session.ErrDraining) {
			return nil, errTooMany
		}
		return nil, errEnded
	}
	l.t.setSent(ex)
	l.t.sending(ex)
	got := &received{t: l.t, ex: ex, stream: st, br: readers.Get().(*bufio.Reader)}
	got.limit = io.LimitedReader{R: st, N: maxAnswerHead}
	got.br.Reset(&got.limit)
	l.t.cutWith(ex, func(error) { st.Reset(resetAborted, "") })
	_, err = st.Write(ex.head)
	if err == nil && (!ex.ready || ex.body != nil) {
		got.upload = l.startUpload(ex, st, unblock)
	}
	if err == nil {
		err = parse(got.br)
	}
	if err == nil {
		l.t.gotAnswer(ex, 0)
		got.limit.N = 1 << 62
		return got, nil
	}
	cause := l.lost(ex, err)
	got.end()
	if got.upload != nil && ex.body == nil && errors.Is(cause, errEnded) {
		return nil, errLost // a part of the body is gone
	}
	return nil, cause
}

// An upload sends a body in a goroutine of its own.
type upload struct {
	sent    atomic.Bool
	done    chan struct{}
	unblock func() // ends a Read of the body; nil if it is here
}

func (l *nativeLink) startUpload(ex *exchange, st *session.Stream, unblock func()) *upload {
	u := &upload{done: make(chan struct{})}
	if ex.body == nil {
		u.unblock = unblock
	}
	go func() {
		defer close(u.done)
		if l.sendBody(ex, st) != nil {
			st.Reset(resetAborted, "")
		}
		u.sent.Store(true)
	}()
	return u
}

// end waits for the goroutine. The caller has ended the stream.
func (u *upload) end() {
	if u.unblock != nil && !u.sent.Load() {
		u.unblock()
	}
	<-u.done
}

// lost returns what the failure of a stream means.
func (l *nativeLink) lost(ex *exchange, err error) error {
	if stopped := l.t.stoppedBy(ex); stopped != nil {
		return stopped
	}
	var re *session.ResetError
	switch {
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
