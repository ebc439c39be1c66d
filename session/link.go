package session

import (
	"errors"
	"net"
	"sync/atomic"
	"time"

	"adit/internal/pipe"
)

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
