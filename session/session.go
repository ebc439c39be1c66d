// Package session is adit's native session: streams, and calls, over a carrier
// that may break and be replaced by another one while the streams go on. It
// speaks docs/protocol/native.md and needs of a carrier no more than a
// net.Conn.
//
// The side that dialled the carrier:
//
//	s, err := session.Dial(ctx, conn, opts)
//	...
//	<-s.Detached() // the carrier broke
//	conn, err = dialAgain(ctx)
//	err = s.Resume(ctx, conn) // every stream goes on where it was
//
// The other side keeps an Acceptor, which tells new sessions from resumed ones:
//
//	s, resumed, err := acceptor.Accept(ctx, conn)
//
// Either side opens streams with Open and takes those of the other side with
// Accept.
package session

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/pipe"
)

// A Session is one side of a session. Its methods are safe for concurrent use.
type Session struct {
	opts    *Options // with defaults; shared
	dialler bool
	id      sessionID
	secret  secretKey
	window  time.Duration // how long it is kept without a carrier
	credit  uint64        // first credit of streams that this side sends on
	value   any           // the owner's
	onEnd   func()        // called once when the session has ended

	attaching sync.Mutex // held while a carrier is replaced; guards attempt
	attempt   uint64

	mu      sync.Mutex // guards the fields below
	cond    sync.Cond  // of mu: link, end, accept queue and calls changed
	link    *link      // nil between carriers
	readers int        // goroutines that read a carrier, also a dropped one, or are parked
	lost    chan struct{}
	expiry  *time.Timer // ends the session between carriers
	err     error       // why it ended; nil while it lives
	done    chan struct{}
	notify  []func() // see OnChange

	attached uint32 // carriers that it has had
	losses   uint32 // and how many of them it has lost

	streams      map[uint64]*Stream
	nextID       uint64 // of the next stream that this side opens
	peerLast     uint64 // id of the last stream that the other side opened
	opened       int    // streams of this side in the map
	peerOpened   int    // and of the other side
	openLimit    int    // how many the other side allows
	draining     bool   // this side takes no new streams
	peerDraining bool   // nor the other
	acceptq      []*Stream
	calls        callState

	out sendState
	in  recvState

	budgetUsed int // growth of windows, of opts.WindowBudget
	rtt        time.Duration
	rttAt      time.Duration // when rtt was measured
	reasons    closing
}

// A link is a session on one carrier.
type link struct {
	s    *Session
	conn net.Conn
	msg  messageConn // conn, if it can write without blocking
	wait readWaiter  // conn, if it can be waited for without a buffer
	move spliceConn  // conn, if bytes can be moved from it without being copied

	lastRecv atomic.Int64        // sinceStart when something was received last
	timer    *time.Timer         // heartbeat
	rr       recordReader        // of the goroutine that reads
	scratch  [headroom + 16]byte // a record that carries no sequence
	heads    [bulkHeads]byte     // see readLoop; of the goroutine that reads

	// Guarded by s.mu.
	progress time.Duration // when the other side acknowledged something last, or had nothing to
	ping     bool          // a PING is to be sent
	pinged   bool          // and has been, since the last silence
	pong     bool          // a PONG is to be sent
	token    uint64        // of that PING
	ackNow   bool          // an ACK is to be sent
	mute     bool          // it cannot be written any more; see fail
}

// messageConn is what a carrier offers to a session that wants to write from
// anywhere without ever blocking, with one message for each batch.
type messageConn interface {
	net.Conn

	// TryWriteMessage sends buf[off:] as one message and may overwrite
	// Headroom bytes before off. If not done, FlushMessage, which blocks, is
	// called before anything else is written.
	TryWriteMessage(buf []byte, off int) (done bool, err error)
	FlushMessage() error
	Headroom() int
}

// readWaiter is what a carrier offers to a session that wants to wait without
// a buffer.
type readWaiter interface {
	// WaitRead returns when Read would not block, or fail.
	WaitRead() error
}

// parker is what a carrier offers to a session that wants to wait without a
// goroutine.
type parker interface {
	// Park has f called, in a goroutine of its own and once, when Read would
	// not block or fail, or after Close. It reports false, and f is not
	// called, if that is so already or the carrier cannot wait so.
	Park(f func()) bool
}

// spliceConn is what a carrier offers to a session that wants to hand bytes on
// without copying them.
type spliceConn interface {
	// Spliceable returns how many of the bytes to come Splice could move.
	Spliceable() int

	// Splice moves up to n of them, and does not wait: if there are none it
	// returns 0 and no error.
	Splice(p *pipe.Pipe, n int) (int, error)
}

// maybeWaiter is a readWaiter that cannot always wait at little cost.
type maybeWaiter interface {
	CanWait() bool
}

var start = time.Now()

// sinceStart is a monotonic clock.
func sinceStart() time.Duration { return time.Since(start) }

func newSession(opts *Options, dialler bool) *Session {
	s := &Session{
		opts:    opts,
		dialler: dialler,
		done:    make(chan struct{}),
		nextID:  2,
	}
	if dialler {
		s.nextID = 1
	}
	s.cond.L = &s.mu
	s.out.spaceq.kind = spaceQueue
	return s
}

// agree takes over what the other side's half of the handshake said.
func (s *Session) agree(h *hello) {
	s.credit = h.window
	s.openLimit = int(min(h.streams, 1<<30))
	s.window = min(s.opts.ResumeWindow, h.resumeWindow)
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Value returns what Acceptor.Accept was given for the session, and nil on the
// side that dialled.
func (s *Session) Value() any { return s.value }

// Err returns why the session ended, and nil while it lives. The error wraps
// ErrClosed after a CLOSE of either side, or is ErrLost or a *ProtocolError.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Detached returns a channel that is closed when the present carrier is lost
// or the session ends; it is closed already if there is no carrier.
func (s *Session) Detached() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lost = make(chan struct{})
		if s.link == nil {
			close(s.lost)
		}
	}
	return s.lost
}

// OnChange registers f to be called after each change of Available, and when
// the session has ended, from any goroutine. f must not block.
func (s *Session) OnChange(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notify = append(s.notify[:len(s.notify):len(s.notify)], f)
}

// Available reports whether a stream that is opened now would reach the other
// side at once: there is a carrier, and the other side does not drain.
func (s *Session) Available() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == nil && s.link != nil && !s.peerDraining
}

// Attached reports whether the session has a carrier.
func (s *Session) Attached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link != nil
}

// RemoteAddr returns the address of the present carrier's other end, and nil
// without a carrier.
func (s *Session) RemoteAddr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link == nil {
		return nil
	}
	return s.link.conn.RemoteAddr()
}

// Streams returns the number of open streams.
func (s *Session) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

// OpenLimit returns how many streams at once the other side lets this one open.
func (s *Session) OpenLimit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openLimit
}

// RoundTrip returns the measured round trip time of the carrier, and zero
// while none is known.
func (s *Session) RoundTrip() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rtt
}

// Buffered returns the bytes of memory that the session holds for what the
// other side has not acknowledged, and for what nobody has read yet.
func (s *Session) Buffered() (send, receive int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.held, int(s.in.held.Load())
}

func (s *Session) notifyChange() {
	s.mu.Lock()
	notify := s.notify
	s.mu.Unlock()
	for _, f := range notify {
		f()
	}
}

// attach starts the session on conn. The caller holds attaching, and there is
// no link. received is the other side's position in what this side sends.
func (s *Session) attach(conn net.Conn, received uint64) error {
	l := &link{s: s, conn: conn}
	if m, ok := conn.(messageConn); ok && m.Headroom() <= headroom-batchHeader {
		l.msg = m
	}
	if m, ok := conn.(maybeWaiter); !ok || m.CanWait() {
		l.wait, _ = conn.(readWaiter)
	}
	if l.wait != nil && pipe.Works {
		l.move, _ = conn.(spliceConn)
	}
	now := sinceStart()
	l.lastRecv.Store(int64(now))
	l.progress = now

	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return s.err
	}
	if err := s.rewindLocked(received); err != nil {
		s.mu.Unlock()
		return err
	}
	if s.expiry != nil {
		s.expiry.Stop()
		s.expiry = nil
	}
	s.link = l
	s.lost = nil
	s.attached++
	s.readers++
	go l.read()
	l.timer = time.AfterFunc(s.heartbeatInLocked(l, now), l.heartbeat)
	s.flushUnlock()
	s.notifyChange()
	return nil
}

// read takes in what comes until the carrier fails.
func (l *link) read() {
	err := l.readLoop()
	if err == errRest {
		if p, ok := l.conn.(parker); !ok || !p.Park(l.read) {
			go l.read()
		}
		return
	}
	l.drop(err)
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readers--
	s.cond.Broadcast()
}

// fail is for a carrier that cannot be written any more. What the other side
// sent before it hung up can still be read, its CLOSE among it, and the reader
// comes to the end of that soon.
func (l *link) fail(err error) {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != l || l.mute {
		return
	}
	l.mute = true
	l.timer.Stop()
	l.timer = time.AfterFunc(lastWords, func() { l.drop(err) })
	s.cond.Broadcast()
}

// drop gives up the carrier, for the reason err, and leaves the session without
// one; a protocol error ends the session instead. Only the first call for a
// link does anything.
func (l *link) drop(err error) {
	s := l.s
	if pe := (*ProtocolError)(nil); errors.As(err, &pe) {
		s.closeWith(&ClosedError{Code: CloseProtocol, Reason: pe.Reason}, err)
	}
	s.mu.Lock()
	if s.link != l {
		s.mu.Unlock()
		return
	}
	s.link = nil
	s.losses++
	l.timer.Stop()
	if s.lost != nil {
		close(s.lost)
	}
	if s.window > 0 && s.err == nil {
		s.expiry = time.AfterFunc(s.window, func() { s.end(ErrLost) })
	}
	s.cond.Broadcast()
	s.mu.Unlock()
	l.conn.Close()
	s.opts.Logger.Debug("carrier lost", "remote", l.conn.RemoteAddr(), "err", err)
	if s.window <= 0 {
		s.end(ErrLost)
		return
	}
	s.notifyChange()
}

// detach drops the present carrier, if there is one, and returns when nothing
// reads or writes it any more: then the positions stand still.
func (s *Session) detach(reason error) {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l != nil {
		l.drop(reason)
	}
	s.mu.Lock()
	for s.out.writing || s.readers > 0 {
		s.cond.Wait()
	}
	s.mu.Unlock()
}

// end ends the session at once. Only the first call does anything.
func (s *Session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	l := s.link
	s.link = nil
	if s.lost != nil && l != nil {
		close(s.lost)
	}
	if s.expiry != nil {
		s.expiry.Stop()
	}
	if s.in.timer != nil {
		s.in.timer.Stop()
	}
	streams := s.streams
	s.streams = nil
	s.acceptq = nil
	s.opts.Budget.add(-s.budgetUsed)
	s.budgetUsed = 0
	if s.calls.cancel != nil {
		s.calls.cancel()
	}
	s.freeAllLocked()
	for _, st := range streams {
		st.failLocked(err)
	}
	s.cond.Broadcast()
	s.mu.Unlock()

	for _, st := range streams {
		st.failRead(err, false) // what has arrived can still be read
	}
	if l != nil {
		l.timer.Stop()
		l.conn.Close()
	}
	close(s.done)
	if s.onEnd != nil {
		s.onEnd()
	}
	s.notifyChange()
}

// A closing is the CLOSE that is to be sent, behind what is queued if there is
// time for that.
type closing struct {
	record *ClosedError // nil until the session is told to close
	late   bool         // it does not wait for what is queued any more
	sent   bool
}

// closeWith sends what is queued and then CLOSE, if there is a carrier, for a
// grace period at most; then the session has ended with err.
func (s *Session) closeWith(why *ClosedError, err error) {
	s.mu.Lock()
	if s.err != nil || s.reasons.record != nil {
		for s.err == nil {
			s.cond.Wait() // for the one who closes
		}
		s.mu.Unlock()
		return
	}
	s.reasons.record = why
	if l := s.link; l != nil {
		s.flushUnlock()
		s.mu.Lock()
		s.waitClosedLocked(l, closeGrace)
		if s.link == l && !s.reasons.sent {
			s.reasons.late = true // CLOSE now, whatever else is queued
			s.waitClosedLocked(l, closeGrace/4)
		}
	}
	s.mu.Unlock()
	s.end(err)
}

// waitClosedLocked waits until CLOSE has been written to l, l is lost, or limit
// has passed.
func (s *Session) waitClosedLocked(l *link, limit time.Duration) {
	expired := false
	t := time.AfterFunc(limit, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		expired = true
		s.cond.Broadcast()
	})
	defer t.Stop()
	for s.link == l && !l.mute && (!s.reasons.sent || s.out.writing) && !expired {
		s.cond.Wait()
	}
}

// Close ends the session on both sides with CLOSE 0, after what is queued has
// been sent or a second has passed. What a stream has received can still be
// read. It returns when all goroutines of the
// session have ended. Calls after the first wait for it and return nil.
func (s *Session) Close() error { return s.CloseWith(CloseDone, "") }

// CloseWith is Close with a code and a reason, which the other side is told.
func (s *Session) CloseWith(code uint16, reason string) error {
	why := &ClosedError{Code: code, Reason: cleanReason(reason)}
	s.closeWith(why, why)
	s.mu.Lock()
	for s.out.writing || s.readers > 0 || s.calls.serving > 0 {
		s.cond.Wait()
	}
	s.mu.Unlock()
	return nil
}

// Drain tells the other side to open no more streams; those that are open go
// on, and so may Open on this side. It does not wait.
func (s *Session) Drain(reason string) {
	s.mu.Lock()
	if s.err != nil || s.draining {
		s.mu.Unlock()
		return
	}
	s.draining = true
	s.appendCodelessLocked(frameDrain, 0, cleanReason(reason))
	s.flushUnlock()
}

// Draining reports whether the other side has asked for no more streams.
func (s *Session) Draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peerDraining
}
