// Package expect lets an upstream decide about a body that is held back until
// it says 100 Continue (RFC 9110, section 10.1.1), without making everybody
// wait for an upstream that never says so.
//
//	t := &http.Transport{ExpectContinueTimeout: expect.Wait}
//	var upstream expect.Upstream
//	resp, err := t.RoundTrip(upstream.Ask(r))
package expect

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"
)

// Wait is how long an upstream is waited for. A request's sender need not wait
// for ever either.
const Wait = time.Second

// memory is how long an upstream is not asked that was waited for in vain.
const memory = time.Minute

// An Upstream knows whether an upstream says 100 Continue. It is safe for
// concurrent use; the zero value is ready.
type Upstream struct {
	silent atomic.Pointer[time.Time] // until when it is not asked; nil if it may be
}

// Ask returns the request as it is to be sent. One without an expectation is r
// itself.
//
// It takes the expectation out where the upstream has left another one without
// an answer in the last minute: the body is then sent at once.
func (u *Upstream) Ask(r *http.Request) *http.Request {
	if r.Body == nil || !strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
		return r
	}
	if until := u.silent.Load(); until != nil && time.Now().Before(*until) {
		r = r.WithContext(r.Context()) // with the same Trailer, which fills later
		r.Header = r.Header.Clone()
		r.Header.Del("Expect")
		return r
	}
	b := &body{ReadCloser: r.Body, upstream: u}
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotFirstResponseByte: func() { b.answered.Store(true) },
	}))
	r.Body = b
	return r
}

// A body notices whether the upstream has said something when it is sent.
type body struct {
	io.ReadCloser
	upstream *Upstream
	begun    bool
	answered atomic.Bool
}

func (b *body) Read(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		if !b.answered.Load() {
			until := time.Now().Add(memory)
			b.upstream.silent.Store(&until)
		}
	}
	return b.ReadCloser.Read(p)
}
