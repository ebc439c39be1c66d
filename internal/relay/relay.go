// Package relay copies both ways between two conns until both directions have
// ended.
//
//	res, err := relay.Relay(visitor, stream, relay.Options{})
//	log.Debug("stream ended", "sent", res.AtoB, "received", res.BtoA, "err", err)
//
// A half-close goes through, an error on one side ends the other with an error,
// and a conn that is idle holds no buffer if it is a plain socket.
package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"adit/internal/hangup"
	"adit/internal/replay"
)

// ErrIdle is the error of a relay that saw no byte for Options.Idle.
var ErrIdle = errors.New("relay: idle for too long")

// errHangup is the error of a relay with a socket that ended its direction
// well and was reset later.
var errHangup = fmt.Errorf("relay: conn has gone after its end: %w", syscall.ECONNRESET)

// errReset is the error of a relay with a socket whose reset a write was told.
var errReset = fmt.Errorf("relay: conn was reset: %w", syscall.ECONNRESET)

// lastWords is how long a side that takes no more bytes may still send: an
// upstream that turns an upload down half way has its answer on the way.
const lastWords = 5 * time.Second

// Options configures a relay. The zero value is ready to use.
type Options struct {
	// Idle ends the relay when no byte has moved either way for so long; 0
	// means never. The end comes between one and two times Idle after the
	// last byte.
	Idle time.Duration

	// EndWith, if not nil, is one of the two conns: its end is the end of the
	// relay, and not of one direction.
	EndWith net.Conn

	// Abort ends c so that its far side sees an error and no clean end, and
	// leaves c closed. cause is what went wrong, on c itself or on the other
	// conn. If nil, a *net.TCPConn is reset, and any other conn is closed.
	Abort func(c net.Conn, cause error)

	// FromA and FromB, if not nil, see the bytes that come from a and b, each
	// before it is written to the other, and no bytes at the end, if that is a
	// clean one. They must neither change nor keep them, nor block. Each is
	// called by one goroutine at a time.
	FromA, FromB func(p []byte)
}

// A Result counts the bytes that were written.
type Result struct {
	AtoB int64
	BtoA int64
}

// Relay copies from a to b and from b to a, and closes both. It returns when
// both directions have ended, and uses one goroutine beside the caller's.
// Deadlines that are set on a and b are cleared.
//
// The end of one direction is passed on with CloseWrite, and the other goes on.
// Where the receiving conn has no CloseWrite its far side cannot be told in
// another way than by closing, so the relay ends; so it does where the end is
// that of Options.EndWith.
//
// The error is the first one of either direction, and nil if both came to
// their end. To stop a relay from outside, close or reset a or b; the error
// then wraps net.ErrClosed.
//
// If a conn other than a plain socket has ReadFrom or WriteTo, it is left to
// that to move the bytes. Of a *replay.Conn the first bytes are written at once,
// and the conn below is what is relayed and what Options.Abort is called with.
func Relay(a, b net.Conn, opts Options) (Result, error) {
	if opts.Abort == nil {
		opts.Abort = abort
	}
	r := &relay{opts: opts}
	r.sides[0].see, r.sides[1].see = opts.FromA, opts.FromB
	for i, c := range []net.Conn{a, b} {
		c.SetDeadline(time.Time{}) // an error shows when c is used
		r.sides[i].ends = c == opts.EndWith
		if rc, ok := c.(*replay.Conn); ok {
			r.sides[i].head = rc.Head()
			c = rc.NetConn()
		}
		r.sides[i].conn = c
	}
	if opts.Idle > 0 {
		// The timer's function must not run before r.idle is set.
		r.mu.Lock()
		r.idle = time.AfterFunc(opts.Idle, r.checkIdle)
		r.mu.Unlock()
	}

	var res Result
	var wg sync.WaitGroup
	wg.Go(func() { res.BtoA = r.direction(1) })
	res.AtoB = r.direction(0)
	wg.Wait()

	r.mu.Lock()
	r.over = true
	for _, timer := range []*time.Timer{r.idle, r.last} {
		if timer != nil {
			timer.Stop()
		}
	}
	err := r.err
	r.mu.Unlock()
	a.Close()
	b.Close()
	return res, err
}

func abort(c net.Conn, _ error) {
	if tc, ok := c.(*net.TCPConn); ok {
		tc.SetLinger(0)
	}
	c.Close()
}

// A relay is one call of Relay. Direction i reads from side i and writes to
// side 1-i.
type relay struct {
	opts  Options
	sides [2]struct {
		conn  net.Conn
		head  []byte       // comes before what conn sends
		see   func([]byte) // what conn sends; may be nil
		ends  bool         // the end of conn is that of the relay
		abort sync.Once
	}

	moved atomic.Int64 // bytes either way, counted only if opts.Idle is set

	mu    sync.Mutex // guards the fields below
	err   error      // the first one
	cause error      // of the first abortBoth
	over  bool       // what fails now fails because the relay ends
	ended [2]bool    // directions
	reset [2]bool    // sides whose reset a write was told, so that a read finds a clean end
	idle  *time.Timer
	last  *time.Timer // ends lastWords
	seen  int64       // moved, when idle fired last
}

// direction runs direction i to its end, and returns the bytes written.
func (r *relay) direction(i int) int64 {
	src, dst := r.sides[i].conn, r.sides[1-i].conn
	see := r.sides[i].see
	n, err := r.copy(dst, src, r.sides[i].head, see)
	var werr *writeError
	unwritten := errors.As(err, &werr)
	r.mu.Lock()
	if err == nil && r.reset[i] {
		err = errReset
	}
	r.ended[i] = true
	r.reset[1-i] = unwritten && errors.Is(err, syscall.ECONNRESET)
	otherEnded, over := r.ended[1-i], r.over
	if err != nil && r.err == nil && !r.over {
		r.err = err
	}
	r.mu.Unlock()
	if err == nil && see != nil {
		see(nil)
	}
	if otherEnded {
		dst.SetReadDeadline(time.Unix(1, 0)) // ends its watch
	}

	switch {
	case over:
	case err == nil:
		if hc, ok := dst.(interface{ CloseWrite() error }); ok && !r.sides[i].ends {
			hc.CloseWrite() // fails if dst is broken, which the other direction finds
			if !otherEnded && plain(src) {
				r.watch(i)
			}
		} else if !otherEnded {
			r.end()
		}
	case unwritten:
		// dst takes nothing more, but may have said why.
		if !otherEnded {
			r.mu.Lock()
			r.last = time.AfterFunc(lastWords, func() { r.abortBoth(err) })
			r.mu.Unlock()
		}
	default:
		r.abortBoth(err)
	}
	return n
}

// watch ends the relay if the conn that direction i has read to its end goes
// altogether, which the other direction does not notice before it writes. It
// returns when that has ended.
func (r *relay) watch(i int) {
	if !hangup.Await(r.sides[i].conn) {
		return
	}
	r.mu.Lock()
	gone := !r.ended[1-i]
	if gone && r.err == nil && !r.over {
		r.err = errHangup
	}
	r.mu.Unlock()
	if gone {
		r.abortBoth(errHangup)
	}
}

// end closes both sides because nobody can be told of an end otherwise.
func (r *relay) end() {
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	for i := range r.sides {
		r.sides[i].conn.Close()
	}
}

// abortBoth ends both sides. What ends one side makes the other's copying fail,
// which comes here too, and is not the cause.
func (r *relay) abortBoth(cause error) {
	r.mu.Lock()
	if r.cause == nil {
		r.cause = cause
	}
	cause = r.cause
	r.mu.Unlock()
	for i := range r.sides {
		r.sides[i].abort.Do(func() { r.opts.Abort(r.sides[i].conn, cause) })
	}
}

// checkIdle runs when opts.Idle has passed.
func (r *relay) checkIdle() {
	r.mu.Lock()
	moved := r.moved.Load()
	switch {
	case r.over:
		r.mu.Unlock()
		return
	case moved != r.seen:
		r.seen = moved
		r.idle.Reset(r.opts.Idle)
		r.mu.Unlock()
		return
	}
	if r.err == nil {
		r.err = ErrIdle
	}
	r.mu.Unlock()
	r.abortBoth(ErrIdle)
}

// A writeError is an error of the conn that is written to.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// copy copies head, and then from src to dst until src ends, and returns the
// bytes written. see may be nil.
func (r *relay) copy(dst, src net.Conn, head []byte, see func([]byte)) (int64, error) {
	var moved *atomic.Int64
	if r.opts.Idle > 0 {
		moved = &r.moved
	}
	var first int64
	if len(head) > 0 {
		n, err := newWriter(dst, moved, see).Write(head)
		if err != nil {
			return int64(n), &writeError{err}
		}
		first = int64(n)
	}
	n, err := move(dst, src, moved, see)
	return first + n, err
}

// move copies from src to dst until src ends, in the way that suits them.
func move(dst, src net.Conn, moved *atomic.Int64, see func([]byte)) (int64, error) {
	if rf, ok := dst.(io.ReaderFrom); ok && !plain(dst) {
		n, err := rf.ReadFrom(newReader(src, moved, see))
		if err != nil && !isOp(err, "read", "raw-read") {
			err = &writeError{err}
		}
		return n, err
	}
	w := newWriter(dst, moved, see)
	if wt, ok := src.(io.WriterTo); ok && !plain(src) {
		n, err := wt.WriteTo(w)
		if isOp(err, "write", "writev") {
			err = &writeError{err}
		}
		return n, err
	}
	return pump(w, src)
}

// isOp reports whether err comes from one of a socket's operations.
func isOp(err error, ops ...string) bool {
	oe, ok := errors.AsType[*net.OpError](err)
	return ok && slices.Contains(ops, oe.Op)
}

// plain reports whether c is a socket. Its ReadFrom and WriteTo hold a pipe
// while they wait, so pump does better.
func plain(c net.Conn) bool {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn, interface{ Socket() *net.TCPConn }:
		return true
	}
	return false
}
