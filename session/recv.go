package session

import (
	"errors"
	"sync/atomic"
	"time"
)

// A recvState is where this side stands in the sequence of the other. It
// belongs to the goroutine that reads the carrier, but for what is said; since
// a position may lie within a frame, it outlives the carrier.
type recvState struct {
	off   atomic.Uint64 // bytes taken in; read by anybody
	acked uint64        // off as the other side was told last; guarded by Session.mu
	held  atomic.Int64  // bytes that nobody has read yet
	timer *time.Timer   // of flushSoonLocked; guarded by Session.mu
	armed bool          // guarded by Session.mu

	header  [frameHeader]byte
	got     int       // bytes of header
	typ     frameType // of the frame whose payload is being taken in
	id      uint64
	rest    int     // bytes of payload to come
	size    int     // bytes of payload in all
	stream  *Stream // that takes them, if they are DATA
	payload []byte  // of another frame, as far as it has come
	answer  bool    // a frame has queued something, to be sent behind the last one that has come
	through bool    // the last piece of DATA went straight to its socket
}

// errRest says that the carrier was silent for a while: it is likely to be so
// again. Whoever reads it parks then, or waits in a new goroutine if that cannot
// be, since the stack of this one has grown with the work.
var errRest = errors.New("session: carrier at rest")

const restAfter = 2 * time.Second

// readLoop reads the carrier until it fails. It holds a buffer only while
// there is something to read, or a small one where it cannot know.
func (l *link) readLoop() error {
	if l.wait == nil {
		return l.readBlind(&l.rr)
	}
	size := 0
	for {
		moved, err := l.splice()
		if err != nil {
			return err
		}
		if moved {
			continue
		}
		var n int
		var full bool
		var silence time.Duration
		if heads := l.splicesNext(); heads > 0 {
			n, err = l.conn.Read(l.heads[:heads])
			silence = l.silence()
			err = l.took(&l.rr, l.heads[:n], nil, err)
		} else {
			if err := l.wait.WaitRead(); err != nil {
				return err
			}
			if moved, err := l.splice(); moved || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			silence = l.silence()
			n, full, err = l.readInto(&l.rr, size)
		}
		if err != nil {
			return err
		}
		if silence > restAfter {
			return errRest
		}
		switch {
		case full && size < len(recvSizes)-1:
			size++
		case n < recvSizes[0] && size > 0:
			size--
		}
	}
}

// silence returns how long ago something was received.
func (l *link) silence() time.Duration {
	return sinceStart() - time.Duration(l.lastRecv.Load())
}

// blindRead is the size of the buffer that waits for bytes where the carrier
// cannot be waited for, as with TLS: enough for a request's records.
const blindRead = 512

// readBlind is readLoop for a carrier that cannot be waited for. A read that
// fills the small buffer has left something behind, as a rule, which a larger
// one takes. Where the carrier can be parked it was, as a rule, and has
// something now: for that a buffer is borrowed.
func (l *link) readBlind(rr *recordReader) error {
	_, parks := l.conn.(parker)
	var small []byte
	if !parks {
		small = make([]byte, blindRead)
	}
	for size := 0; ; {
		heard := l.lastRecv.Load()
		var n int
		var err error
		if size > 0 || small == nil {
			n, _, err = l.readInto(rr, size)
		} else {
			n, err = l.conn.Read(small)
			err = l.took(rr, small[:n], nil, err)
		}
		if err != nil {
			return err
		}
		if parks && time.Duration(l.lastRecv.Load()-heard) > restAfter {
			return errRest
		}
		if small == nil {
			small = make([]byte, blindRead)
		}
		size = 0
		if n >= blindRead {
			size = 1
		}
	}
}

// readInto reads once, into a buffer of that size. full reports whether it was
// filled.
func (l *link) readInto(rr *recordReader, size int) (n int, full bool, err error) {
	buf := getRecvBuf(size)
	defer buf.release()
	n, err = l.conn.Read(buf.b)
	return n, n == len(buf.b), l.took(rr, buf.b[:n], buf, err)
}

// took takes in b, which is part of buf and came with err.
func (l *link) took(rr *recordReader, b []byte, buf *recvBuf, err error) error {
	if len(b) > 0 {
		l.lastRecv.Store(int64(sinceStart()))
		if perr := l.takeRecords(rr, b, buf); perr != nil {
			return perr
		}
	}
	return err
}

// ackSoon sees to it that the other side learns in time what was taken in.
func (s *Session) ackSoon(l *link) {
	off := s.in.off.Load()
	s.mu.Lock()
	switch {
	case s.link != l:
	case off-s.in.acked >= ackEvery:
		l.ackNow = true
		s.flushUnlock()
		return
	case off > s.in.acked:
		s.flushSoonLocked()
	}
	s.mu.Unlock()
}

// flushSoonLocked sees to it that what is queued now, and an ACK that is due,
// go out after ackDelay at the latest.
func (s *Session) flushSoonLocked() {
	switch {
	case s.in.armed:
	case s.in.timer == nil:
		s.in.timer = time.AfterFunc(ackDelay, s.flushLate)
	default:
		s.in.timer.Reset(ackDelay)
	}
	s.in.armed = true
}

// flushLate sends what nothing else has carried.
func (s *Session) flushLate() {
	s.mu.Lock()
	s.in.armed = false
	if l := s.link; l != nil && s.in.off.Load() > s.in.acked {
		l.ackNow = true
	}
	s.flushUnlock()
}
