package ingress

import (
	"bytes"
	"sync"
	"sync/atomic"
)

// A lending is what a visitor's goroutine has of its exchange's memory while it
// waits for the upstream: all of it for some moments, which is how long most
// requests take, and then little. A request that waits for news and a silent
// stream of events hold no buffers.
type lending struct {
	slow atomic.Bool // the answer takes its time

	mu    sync.Mutex // guards the fields below
	waits bool       // the visitor's goroutine waits, and does not use ex.out, ex.rin and the body's buffer
	lent  bool       // they are given back
	out   []byte     // what was in ex.out
}

// awaiter is a stream that tells when it is about to wait for bytes.
type awaiter interface {
	// Await returns when Read would not wait. If it has to wait it calls idle
	// before.
	Await(idle func())
}

// await waits for bytes of s. Without it, reading would hold what it reads into.
func (v *visitor) await(s *stream) {
	a, ok := s.conn.(awaiter)
	if !ok {
		return
	}
	a.Await(v.idle)
	l := &v.lending
	if !l.waits { // only this goroutine changes it
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits = false
	if l.lent {
		l.lent = false
		v.ex.rin = *outBuffers.get()
		v.ex.out = append((*outBuffers.get())[:0], l.out...)
		l.out = nil
	}
}

// beginIdle says that the visitor's goroutine is about to wait.
func (v *visitor) beginIdle() {
	l := &v.lending
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits = true
	if l.slow.Load() {
		v.lendLocked()
	}
}

// slowDown says that the answer takes its time. It is called from another
// goroutine.
func (v *visitor) slowDown() {
	l := &v.lending
	l.slow.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waits {
		v.lendLocked()
	}
}

func (v *visitor) lendLocked() {
	l, ex := &v.lending, v.ex
	if l.lent {
		return
	}
	l.lent = true
	ex.body.release()
	if ex.started {
		clear(ex.resp.Fields) // they are in ex.rin, and have been passed on
		ex.resp.Fields, ex.resp.Reason = ex.resp.Fields[:0], nil
	} else { // the request may have to be sent again
		l.out = bytes.Clone(ex.out)
	}
	out := ex.out[:cap(ex.out)]
	for _, b := range [][]byte{ex.rin, out} {
		if len(b) == outBuffer {
			outBuffers.put(&b)
		}
	}
	ex.rin, ex.out = nil, nil
}
