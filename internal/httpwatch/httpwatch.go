// Package httpwatch sees the requests and responses in the bytes of an HTTP/1.1
// conn that somebody else relays. It changes and delays nothing, keeps little,
// and gives up on a conn whose bytes it does not understand.
//
//	w := httpwatch.New(func(e httpwatch.Exchange) { … })
//	relay.Relay(visitor, upstream, relay.Options{FromA: w.Request, FromB: w.Response})
//	w.Close(err)
package httpwatch

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/http1"
)

const (
	maxHead    = 64 << 10 // bytes of a head; a conn with a larger one is given up
	maxPending = 64       // requests of a conn whose responses have not ended
	maxFields  = 1000     // of a head

	// What an Exchange holds of a request, in bytes.
	maxMethod = 32
	maxTarget = 1 << 10
)

// limits leaves it to others to refuse heads.
var limits = http1.Limits{Fields: maxFields, Target: maxHead}

// An Exchange is what was seen so far of a request and its response.
type Exchange struct {
	ID uint64 // of this exchange alone in this process, growing

	Begin  time.Time // when the head of the request had arrived
	Method string    // at most 32 bytes
	Target string    // as on the wire, cut to 1 KiB; of printable ASCII alone
	Host   string    // as on the wire; empty if HTTP/1.0 went without

	Status   int  // of the final response; 0 while there is none
	Upgraded bool // the conn left HTTP with this response: Status is 101

	// Duration is the time from Begin to the head of the final response, and
	// once Done to the end of the response.
	Duration time.Duration

	// Received and Sent are bytes of the request's and the response's
	// content, without chunked coding, or of all that followed an upgrade.
	Received, Sent int64

	Done   bool // nothing follows
	Broken bool // Done, without the whole response having been seen
}

// A Watcher follows one conn. Request and Response may be called at the same
// time, each of them by one goroutine.
type Watcher struct {
	report func(Exchange)
	lost   atomic.Bool // nothing is looked at any more

	mu         sync.Mutex // guards the fields below
	req, resp  half
	upgrading  bool        // the latest request asks to leave HTTP and is not answered
	latest     *Exchange   // whose request arrives
	pending    []*Exchange // without the end of their responses, oldest first
	events     []Exchange  // to report
	delivering bool        // somebody reports
}

// New returns a Watcher that tells report of each exchange: when it begins,
// when its response has begun, and when it is done; what happens at the same
// time is told once. report is called for one event at a time, by whoever calls
// the Watcher, and must not block.
func New(report func(Exchange)) *Watcher { return &Watcher{report: report} }

var lastID atomic.Uint64

// What makes a Watcher give up, besides an *http1.Error.
var (
	errHeadTooLarge = errors.New("httpwatch: the head is too large")
	errPending      = errors.New("httpwatch: too many requests without a response")
	errUnasked      = errors.New("httpwatch: a response without a request")
	errOver         = errors.New("httpwatch: no response follows")
	errHasty        = errors.New("httpwatch: bytes after a request to leave HTTP, before its response")
)

// Request takes the next bytes of the visitor's direction. They have to come
// before the bytes of the response that they lead to. It does not keep p.
func (w *Watcher) Request(p []byte) { w.take(p, w.requestLocked) }

// Response takes the next bytes of the upstream's direction; an empty p is the
// end of that. It does not keep p.
func (w *Watcher) Response(p []byte) { w.take(p, w.responseLocked) }

func (w *Watcher) take(p []byte, parse func([]byte) error) {
	if w.lost.Load() {
		return
	}
	w.mu.Lock()
	if err := parse(p); err != nil {
		w.giveUpLocked()
	}
	w.deliverUnlock()
}

// Close ends what is not done. err is why the conn ended, and nil if both
// directions came to their end: a response may then be whole that has no other
// mark of its end.
func (w *Watcher) Close(err error) {
	w.mu.Lock()
	if err == nil && len(w.pending) > 0 && (w.resp.state == untilEnd || w.resp.state == raw) {
		w.endLocked(false)
	}
	w.giveUpLocked()
	w.deliverUnlock()
}

// giveUpLocked ends all exchanges, and looks at nothing from now on.
func (w *Watcher) giveUpLocked() {
	w.lost.Store(true)
	for len(w.pending) > 0 {
		w.endLocked(true)
	}
	w.req, w.resp, w.latest, w.pending = half{}, half{}, nil, nil
}

// endLocked takes the oldest exchange from those that are pending.
func (w *Watcher) endLocked(broken bool) {
	e := w.pending[0]
	w.pending[0] = nil
	w.pending = w.pending[1:]
	e.Duration = time.Since(e.Begin)
	e.Done, e.Broken = true, broken
	w.events = append(w.events, *e)
}

// deliverUnlock reports what is to be reported, unless another goroutine does
// so already.
func (w *Watcher) deliverUnlock() {
	if w.delivering {
		w.mu.Unlock()
		return
	}
	w.delivering = true
	for len(w.events) > 0 {
		events := w.events
		w.events = nil
		w.mu.Unlock()
		for _, e := range events {
			w.report(e)
		}
		w.mu.Lock()
	}
	w.delivering = false
	w.mu.Unlock()
}
