package session

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"adit/internal/deadline"
	"adit/internal/pipe"
)

// A Stream is one conn carried by a session. It is a net.Conn that outlives the
// session's carriers; its methods are safe for concurrent use. Whoever opened
// or accepted it closes it.
//
// Write returns when the bytes are queued within the stream's credit, not when
// they have arrived. Bytes written before Close or CloseWrite arrive unless
// the session is lost.
type Stream struct {
	s     *Session
	id    uint64
	local bool   // this side opened it
	meta  []byte // of OPEN, if the other side did

	wmu sync.Mutex // held by Write and ReadFrom for their whole length

	// Guarded by s.mu: the state, and the sending side.
	links       [queueKinds]queueLink
	wcond       sync.Cond // of s.mu
	credit      uint64    // bytes that may still be sent
	ready       *chunk    // waits in out.bulk for its turn
	werr        error     // why nothing can be written any more
	wdeadline   deadline.Deadline
	left        uint64 // bytes that the other side may still send
	window      int    // the most that left may be
	grown       int    // of window, what counts against the budgets
	accepted    bool
	ended       bool // END or RESET is queued: nothing more is sent
	remoteEnded bool // END or RESET has come
	closed      bool
	lazy        bool // OPEN waits for company

	// Guarded by rmu: the receiving side.
	rmu       sync.Mutex
	rcond     sync.Cond // of rmu
	segments  []segment
	inline    [2]segment // what segments begins with
	eof       bool
	rerr      error // seen by Read once segments is empty
	rclosed   bool  // what comes is discarded
	rdeadline deadline.Deadline
	sink      *sink         // of a WriteTo that waits
	splicing  bool          // a WriteTo is there that takes pipes
	piped     int           // pipes that wait for it
	consumed  int           // bytes read since credit was returned
	returnAt  int           // and how many it takes
	grantedAt time.Duration // when credit was returned last
}

// A segment is a run of received bytes.
type segment struct {
	b   []byte
	buf *recvBuf // whose memory b is

	pipe *pipe.Pipe // where the bytes are instead, or nil
	n    int        // how many
}

var (
	_ net.Conn      = (*Stream)(nil)
	_ io.ReaderFrom = (*Stream)(nil)
	_ io.WriterTo   = (*Stream)(nil)
)

func (s *Session) newStreamLocked(id uint64, local bool) *Stream {
	st := &Stream{
		s:        s,
		id:       id,
		local:    local,
		credit:   s.credit,
		left:     uint64(s.opts.Window),
		window:   s.opts.Window,
		returnAt: s.opts.Window / 2,
	}
	st.wcond.L = &s.mu
	st.rcond.L = &st.rmu
	st.segments = st.inline[:0]
	if s.streams == nil {
		s.streams = make(map[uint64]*Stream)
	}
	s.streams[id] = st
	return st
}

// Open opens a stream without waiting for the other side: meta (at most 4096
// bytes) and what is written at once travel together. If the other side
// refuses, Read, Write and WaitAccepted return a *RefusedError. A stream that is
// left alone is opened 25 ms later. Without a carrier it is opened when there is
// one again.
//
// The error is ErrDraining, a *RefusedError with code 6 (busy) if the other
// side allows no more streams, or why the session ended.
func (s *Session) Open(meta []byte) (*Stream, error) {
	if len(meta) > maxMeta {
		return nil, errors.New("session: metadata of a stream over 4096 bytes")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return nil, s.err
	case s.reasons.record != nil:
		return nil, s.reasons.record
	case s.peerDraining:
		return nil, ErrDraining
	case s.opened >= s.openLimit:
		return nil, &RefusedError{Code: refuseBusy, Reason: "as many streams are open as the other side allows"}
	}
	st := s.newStreamLocked(s.nextID, true)
	s.nextID += 2
	s.opened++
	st.lazy = true
	s.appendLocked(frameOpen, st.id, meta)
	s.flushSoonLocked()
	return st, nil
}

// Codes of REFUSE that this package sends itself.
const (
	refuseBusy = 6

	stopUnwanted  = 2
	resetOverload = 5
)

// flush sends OPEN if it still waits for company.
func (st *Stream) flush() {
	st.s.mu.Lock()
	if !st.lazy {
		st.s.mu.Unlock()
		return
	}
	st.lazy = false
	st.s.flushUnlock()
}

// Accept returns the next stream that the other side opened. Its error is why
// the session ended, or ctx's.
func (s *Session) Accept(ctx context.Context) (*Stream, error) {
	defer s.wakeAfter(ctx, &s.cond)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.acceptq) == 0 {
		if s.err != nil {
			return nil, s.err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.cond.Wait()
	}
	st := s.acceptq[0]
	s.acceptq[0] = nil
	if s.acceptq = s.acceptq[1:]; len(s.acceptq) == 0 {
		s.acceptq = nil
	}
	return st, nil
}

// wakeAfter has cond, which is of mu, wake all who wait when ctx ends, unless stop
// is called before.
func (s *Session) wakeAfter(ctx context.Context, cond *sync.Cond) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		cond.Broadcast()
	})
}

// Meta returns what the other side said when it opened the stream. The caller
// must not change it.
func (st *Stream) Meta() []byte { return st.meta }

// Session returns the session that carries st.
func (st *Stream) Session() *Session { return st.s }

// Accepted tells the other side that the stream it opened is wanted; the first
// Write does so too. It returns why the stream has ended, if it has.
func (st *Stream) Accepted() error {
	s := st.s
	s.mu.Lock()
	if st.local || st.accepted || st.ended {
		err := st.werr
		s.mu.Unlock()
		return err
	}
	st.accepted = true
	s.appendLocked(frameAccept, st.id, nil)
	s.flushUnlock()
	return nil
}

// Refuse tells the other side why the stream that it opened is not wanted, and
// closes it. After Accepted or Write it resets the stream instead.
func (st *Stream) Refuse(code uint16, reason string) error {
	return st.abort(code, reason, !st.local)
}

// Reset aborts the stream in both directions: the other side's Read sees code
// and reason after what has arrived already. It implies Close.
func (st *Stream) Reset(code uint16, reason string) error {
	return st.abort(code, reason, false)
}

func (st *Stream) abort(code uint16, reason string, refuse bool) error {
	s := st.s
	reason = cleanReason(reason)
	st.failRead(ErrStreamClosed, true)
	s.mu.Lock()
	st.closed = true
	if st.ended && st.remoteEnded {
		s.mu.Unlock()
		return nil
	}
	t := frameReset
	if refuse && !st.accepted && !st.ended {
		t = frameRefuse
	}
	s.abortLocked(st, t, code, reason, ErrStreamClosed)
	s.flushUnlock()
	return nil
}

// abortLocked ends both directions of st with a frame of type t.
func (s *Session) abortLocked(st *Stream, t frameType, code uint16, reason string, err error) {
	s.appendCodeLocked(t, st.id, code, reason)
	st.ended, st.remoteEnded = true, true
	st.failLocked(err)
	s.forgetLocked(st)
}

// failLocked makes every Write return err and drops what was not sent.
func (st *Stream) failLocked(err error) {
	if st.werr == nil {
		st.werr = err
	}
	if st.ready != nil {
		st.s.out.bulk.drop(st)
		st.s.freeChunkLocked(st.takeReadyLocked())
	}
	st.wdeadline.Stop()
	st.wcond.Broadcast()
}

// failRead makes Read return err; before, it returns what has arrived, unless
// discard.
func (st *Stream) failRead(err error, discard bool) {
	st.rmu.Lock()
	if st.rerr == nil && !st.eof || discard {
		st.rerr = err
	}
	var held int
	if discard {
		st.rclosed = true
		held = st.discardLocked()
		st.rdeadline.Stop()
	}
	st.rcond.Broadcast()
	st.rmu.Unlock()
	st.s.in.held.Add(int64(-held))
}

// discardLocked drops all segments, with rmu held.
func (st *Stream) discardLocked() (n int) {
	for i := range st.segments {
		n += st.segments[i].len()
		st.releaseLocked(&st.segments[i])
	}
	st.inline = [2]segment{}
	st.segments = st.inline[:0]
	return n
}

// forgetLocked takes st out of the session if both directions have ended.
func (s *Session) forgetLocked(st *Stream) {
	if !st.ended || !st.remoteEnded || s.streams[st.id] != st {
		return
	}
	delete(s.streams, st.id)
	if len(s.streams) == 0 {
		s.streams = nil // a map keeps its buckets
		s.cond.Broadcast()
	}
	if st.local {
		s.opened--
	} else {
		s.peerOpened--
	}
	s.budgetUsed -= st.grown
	s.opts.Budget.add(-st.grown)
	st.grown = 0
}

// WaitAccepted waits until the other side has accepted the stream that this
// side opened. Its error is a *RefusedError or another reason why the stream
// ended, or ctx's.
func (st *Stream) WaitAccepted(ctx context.Context) error {
	s := st.s
	st.flush()
	defer s.wakeAfter(ctx, &st.wcond)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !st.accepted {
		if s.err != nil {
			return s.err
		}
		// After CloseWrite alone the other side may still accept.
		if st.werr != nil && (!st.ended || st.remoteEnded || st.closed) {
			return st.werr
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		st.wcond.Wait()
	}
	return nil
}

// WaitGivenUp waits until the other side wants nothing of the stream any more,
// or ctx ends: then its error is ctx's, and otherwise why the stream ended. It
// is for those who accept a stream after some time; what the other side sends
// meanwhile is kept.
func (st *Stream) WaitGivenUp(ctx context.Context) error {
	s := st.s
	defer s.wakeAfter(ctx, &st.wcond)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for ctx.Err() == nil {
		if s.err != nil {
			return s.err
		}
		if st.werr != nil {
			return st.werr
		}
		st.wcond.Wait()
	}
	return context.Cause(ctx)
}

// CloseWrite ends the sending direction: the other side reads io.EOF behind
// what was written.
func (st *Stream) CloseWrite() error {
	s := st.s
	s.mu.Lock()
	if st.werr != nil && !st.ended {
		err := st.werr
		s.mu.Unlock()
		return err
	}
	s.endLocked(st)
	st.denyWritesLocked(ErrStreamClosed)
	s.forgetLocked(st)
	s.flushUnlock()
	return nil
}

// denyWritesLocked makes every Write return err and leaves what is queued alone.
func (st *Stream) denyWritesLocked(err error) {
	if st.werr == nil {
		st.werr = err
	}
	st.wcond.Broadcast()
}

// endLocked queues END.
func (s *Session) endLocked(st *Stream) {
	if st.ended {
		return
	}
	st.ended, st.lazy = true, false
	st.accepted = st.accepted || !st.local
	if st.ready != nil {
		st.ready.buf[st.ready.last] = byte(frameEnd)
		return
	}
	s.appendLocked(frameEnd, st.id, nil)
}

// Close ends both directions. What was written before still arrives, unless
// the session is lost. Calls after the first return nil.
func (st *Stream) Close() error {
	s := st.s
	st.failRead(ErrStreamClosed, true)
	s.mu.Lock()
	if st.closed {
		s.mu.Unlock()
		return nil
	}
	st.closed = true
	if !st.ended {
		s.endLocked(st)
	}
	if !st.remoteEnded {
		s.appendCodeLocked(frameStop, st.id, stopUnwanted, "")
	}
	st.denyWritesLocked(ErrStreamClosed)
	st.wdeadline.Stop()
	s.forgetLocked(st)
	s.flushUnlock()
	return nil
}

// Quiet reports whether the stream is open in both directions and there is
// nothing to read.
func (st *Stream) Quiet() bool {
	st.rmu.Lock()
	quiet := len(st.segments) == 0 && !st.eof && st.rerr == nil
	st.rmu.Unlock()
	if !quiet {
		return false
	}
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	return st.werr == nil && st.s.link != nil
}

// LocalAddr returns the address of this end of the present carrier.
func (st *Stream) LocalAddr() net.Addr { return st.addr(net.Conn.LocalAddr) }

// RemoteAddr returns the address of the other end of the present carrier.
func (st *Stream) RemoteAddr() net.Addr { return st.addr(net.Conn.RemoteAddr) }

func (st *Stream) addr(of func(net.Conn) net.Addr) net.Addr {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.s.link == nil {
		return noAddr{}
	}
	return of(st.s.link.conn)
}

// noAddr is the address of a stream whose session is between two carriers.
type noAddr struct{}

func (noAddr) Network() string { return "adit" }
func (noAddr) String() string  { return "detached" }

// SetDeadline sets both deadlines. The zero Time means none.
func (st *Stream) SetDeadline(t time.Time) error {
	return errors.Join(st.SetReadDeadline(t), st.SetWriteDeadline(t))
}

// SetReadDeadline bounds present and later calls of Read and WriteTo; they
// then fail with os.ErrDeadlineExceeded.
func (st *Stream) SetReadDeadline(t time.Time) error {
	st.rmu.Lock()
	defer st.rmu.Unlock()
	if st.rclosed {
		return ErrStreamClosed
	}
	st.rdeadline.Set(t, &st.rcond)
	return nil
}

// SetWriteDeadline bounds present and later calls of Write, and how long
// ReadFrom waits for the other side; they then fail with
// os.ErrDeadlineExceeded. A Read that ReadFrom is in is not cut short.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.closed {
		return ErrStreamClosed
	}
	st.wdeadline.Set(t, &st.wcond)
	return nil
}
