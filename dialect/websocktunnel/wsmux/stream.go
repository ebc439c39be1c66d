package wsmux

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/deadline"
	"adit/tunnel"
)

// A Stream is one conn carried by a session. Its methods are safe for
// concurrent use. Whoever opened or accepted it closes it.
//
// Write returns when the bytes are queued within the stream's credit, not when
// they have arrived. Bytes written before Close or CloseWrite arrive unless the
// session ends.
type Stream struct {
	s  *Session
	id uint32

	wmu sync.Mutex // held by Write and ReadFrom for their whole length

	// Guarded by s.mu: the state, and the sending side.
	wcond       sync.Cond // of s.mu
	credit      int64     // bytes that may still be sent
	werr        error     // why nothing can be written any more
	wdeadline   deadline.Deadline
	accepted    bool // or refused
	acked       bool // accepted by the other side
	finSent     bool // nothing more is sent
	finReceived bool
	closed      bool
	closedAt    uint // of s.ticks
	queued      bool // in out.spaceq, where next is
	next        *Stream

	lazy atomic.Bool // the SYN waits for company

	// Guarded by rmu: the receiving side.
	rmu       sync.Mutex
	rcond     sync.Cond // of rmu
	buffers   []*buffer // what has arrived, none of them empty
	inline    [2]*buffer
	size      int // bytes in them
	eof       bool
	rerr      error // seen by Read once buffers is empty
	rclosed   bool  // what comes is discarded
	mute      bool  // no more credit is given
	rdeadline deadline.Deadline
	sink      *sink // of a WriteTo that waits
	left      int64 // bytes that the other side may still send
	window    int   // the most that left should be
	grown     int   // of window, what counts against growthBudget
	consumed  int   // bytes read since credit was given
	waitedAt  int64 // s.came when some were read last, or the first had come
	returnAt  int   // how many it takes
	grantedAt time.Duration
}

var _ net.Conn = (*Stream)(nil)

func (s *Session) newStreamLocked(id uint32) *Stream {
	st := &Stream{s: s, id: id, credit: int64(s.window)}
	st.wcond.L = &s.mu
	st.rcond.L = &st.rmu
	st.buffers = st.inline[:0]
	st.left = int64(s.opts.Window)
	st.window = s.opts.Window
	st.returnAt = returnAt(st.window)
	if s.streams == nil {
		s.streams = make(map[uint32]*Stream)
	}
	s.streams[id] = st
	return st
}

// returnAt is how many bytes of a window are read before credit is given for
// them: few enough for the sender never to wait for it.
func returnAt(window int) int { return max(1, min(window/4, 256<<10)) }

// setPeerWindow takes note of the window of an agent without the extension,
// before any byte has come. Most take it for granted that the server's is as
// large, and send so much before they wait for credit; careful ones send 4096.
func (st *Stream) setPeerWindow(n int) {
	st.rmu.Lock()
	defer st.rmu.Unlock()
	st.returnAt = returnAt(min(n, oldServerHolds))
}

// Open opens a stream and waits until the agent has accepted it; ctx bounds
// that. The error wraps tunnel.ErrClosed or tunnel.ErrRefused, or is ctx's.
func (s *Session) Open(ctx context.Context) (*Stream, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := s.slot(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	st, err := s.openLocked()
	s.flushUnlock()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		st.wcond.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	for !st.acked && st.werr == nil && ctx.Err() == nil {
		st.wcond.Wait()
	}
	switch {
	case s.err != nil:
		err = s.err
	case st.acked: // whatever has become of it since
	case st.werr != nil:
		err = st.werr
	default:
		err = context.Cause(ctx)
	}
	s.mu.Unlock()
	if err != nil {
		st.Reset(tunnel.ResetCancelled, "")
		return nil, err
	}
	return st, nil
}

// OpenEarly opens a stream without waiting for the agent's answer: what is
// written at once travels with the SYN. It needs the extension. The error wraps
// tunnel.ErrClosed or tunnel.ErrRefused.
func (s *Session) OpenEarly() (*Stream, error) {
	s.mu.Lock()
	s.pending++
	st, err := s.openLocked()
	if err == nil {
		st.lazy.Store(true)
		s.flushSoonLocked()
	}
	s.mu.Unlock()
	return st, err
}

// slot waits until fewer than MaxUnaccepted streams wait to be accepted, and
// counts one more.
func (s *Session) slot(ctx context.Context) error {
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return s.err
	}
	if s.pending < s.opts.MaxUnaccepted && s.waiting.Len() == 0 {
		s.pending++
		s.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	e := s.waiting.PushBack(turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return nil // or the session has ended, which open finds
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-turn: // at the last moment
		if s.err == nil {
			s.freeSlotLocked()
		}
	default:
		s.waiting.Remove(e)
	}
	return context.Cause(ctx)
}

// openLocked queues SYN. The caller has a slot, which is freed if there is an
// error.
func (s *Session) openLocked() (*Stream, error) {
	var err error
	switch {
	case s.err != nil:
		err = s.err
	case len(s.streams) >= s.opts.MaxStreams:
		err = &tunnel.RefusedError{Code: tunnel.RefuseBusy, Reason: "too many streams are open"}
	}
	if err != nil {
		s.freeSlotLocked()
		return nil, err
	}
	for s.streams[s.nextID] != nil {
		s.nextID += 2
	}
	st := s.newStreamLocked(s.nextID)
	s.nextID += 2
	s.appendLocked(SYN, st.id, nil)
	return st, nil
}

// Accept returns the next stream that the server opened, not yet accepted. The
// error is why the session has ended.
func (s *Session) Accept() (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.acceptq) == 0 {
		if s.err != nil {
			return nil, s.err
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

// Accepted tells the server that the stream is wanted; the first Write does so
// too. It returns why the stream has ended, if it has.
func (st *Stream) Accepted() error {
	s := st.s
	s.mu.Lock()
	if err := st.werr; err != nil {
		s.mu.Unlock()
		return err
	}
	s.acceptLocked(st)
	s.flushUnlock()
	return nil
}

// acceptLocked queues the ACK that accepts a stream of the server.
func (s *Session) acceptLocked(st *Stream) {
	if st.accepted || s.role == Server {
		return
	}
	st.accepted = true
	first := 0 // both know the window
	if !s.opts.Extended {
		first = s.opts.Window
	}
	s.appendCreditLocked(st.id, first)
}

// Refuse tells the server why its stream is not wanted, and closes it. Without
// the extension the server sees a stream that is accepted and ends at once.
func (st *Stream) Refuse(code tunnel.RefuseCode, reason string) error {
	return st.abort(uint16(code), reason)
}

// Reset ends both directions with an error at the other side; without the
// extension it is Close.
func (st *Stream) Reset(code tunnel.ResetCode, reason string) error {
	return st.abort(uint16(code), reason)
}

func (st *Stream) abort(code uint16, reason string) error {
	s := st.s
	if !s.opts.Extended {
		return st.Close()
	}
	st.failRead(net.ErrClosed, true)
	s.mu.Lock()
	st.closed = true
	if st.finSent && st.finReceived {
		s.mu.Unlock()
		return nil
	}
	s.appendResetLocked(st.id, code, reason)
	s.goneLocked(st, net.ErrClosed)
	s.flushUnlock()
	return nil
}

// goneLocked ends both directions of st, about which the other side has been
// told with RST.
func (s *Session) goneLocked(st *Stream, err error) {
	if s.role == Server && !st.accepted {
		st.accepted = true
		s.freeSlotLocked()
	}
	st.finSent, st.finReceived = true, true
	st.failLocked(err)
	s.forgetLocked(st)
}

// CloseWrite ends the sending direction: the other side reads io.EOF behind
// what was written. An original at the other side, if it is the agent, takes it
// for the end of both.
func (st *Stream) CloseWrite() error {
	s := st.s
	s.mu.Lock()
	if st.werr != nil && !st.finSent {
		err := st.werr
		s.mu.Unlock()
		return err
	}
	s.finishLocked(st)
	st.denyWritesLocked()
	s.forgetLocked(st)
	s.flushUnlock()
	return nil
}

// finishLocked queues FIN. Before the ACK of an original there is nothing that
// it would understand.
func (s *Session) finishLocked(st *Stream) {
	if st.finSent || s.role == Server && !st.accepted && !s.opts.Extended {
		return
	}
	s.acceptLocked(st)
	st.finSent = true
	s.appendLocked(FIN, st.id, nil)
}

// denyWritesLocked makes every Write fail and leaves what is queued alone.
func (st *Stream) denyWritesLocked() {
	if st.werr == nil {
		st.werr = net.ErrClosed
	}
	st.wcond.Broadcast()
}

// Close ends both directions. What was written before still arrives, unless
// the session ends. Calls after the first return nil.
func (st *Stream) Close() error {
	s := st.s
	discarded := st.failRead(net.ErrClosed, true)
	s.mu.Lock()
	if st.closed {
		s.mu.Unlock()
		return nil
	}
	st.closed, st.closedAt = true, s.ticks
	s.finishLocked(st)
	switch {
	case st.finReceived:
	case s.opts.Extended:
		s.appendResetLocked(st.id, uint16(tunnel.ResetCancelled), "")
		s.goneLocked(st, net.ErrClosed)
	case discarded > 0:
		// An original that waits for credit would not see the FIN.
		s.appendCreditLocked(st.id, discarded)
	}
	st.denyWritesLocked()
	st.wdeadline.Stop()
	s.forgetLocked(st)
	s.flushUnlock()
	return nil
}

// failLocked makes every Write return err.
func (st *Stream) failLocked(err error) {
	if st.werr == nil {
		st.werr = err
	}
	st.s.out.spaceq.drop(st)
	st.s.wakeLocked()
	st.wdeadline.Stop()
	st.wcond.Broadcast()
}

// failRead makes Read return err; before, it returns what has arrived, unless
// discard. It returns how many bytes were discarded that no credit was given
// for.
func (st *Stream) failRead(err error, discard bool) int {
	st.rmu.Lock()
	defer st.rmu.Unlock()
	if st.rerr == nil && !st.eof || discard {
		st.rerr = err
	}
	st.rcond.Broadcast()
	if !discard || st.rclosed {
		return 0
	}
	st.rclosed = true
	st.rdeadline.Stop()
	for _, b := range st.buffers {
		held.put(b)
	}
	n := st.size
	st.inline = [2]*buffer{}
	st.buffers, st.size = st.inline[:0], 0
	st.s.held.Add(int64(-n))
	n += st.consumed
	st.consumed = 0
	st.left += int64(n)
	return n
}

// endRead lets Read end behind what has arrived.
func (st *Stream) endRead() {
	st.rmu.Lock()
	defer st.rmu.Unlock()
	st.eof, st.mute = true, true
	st.rcond.Broadcast()
}

// forgetLocked takes st out of the session if both directions have ended.
func (s *Session) forgetLocked(st *Stream) {
	if !st.finSent || !st.finReceived || s.streams[st.id] != st {
		return
	}
	delete(s.streams, st.id)
	if len(s.streams) == 0 {
		s.streams = nil // a map keeps its buckets
	}
	s.grown -= st.grown
	st.grown = 0
}

// Quiet reports whether the stream is open in both directions and there is
// nothing to read.
func (st *Stream) Quiet() bool {
	st.rmu.Lock()
	quiet := st.size == 0 && !st.eof && st.rerr == nil
	st.rmu.Unlock()
	if !quiet {
		return false
	}
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	return st.werr == nil
}

// Extended reports whether both sides speak the extension: without it, ending
// one direction ends both, and an error looks like an end.
func (st *Stream) Extended() bool { return st.s.opts.Extended }

// LocalAddr returns the address of this end of the session.
func (st *Stream) LocalAddr() net.Addr { return st.s.conn.LocalAddr() }

// RemoteAddr returns the address of the other end of the session.
func (st *Stream) RemoteAddr() net.Addr { return st.s.conn.RemoteAddr() }

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
		return net.ErrClosed
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
		return net.ErrClosed
	}
	st.wdeadline.Set(t, &st.wcond)
	return nil
}
