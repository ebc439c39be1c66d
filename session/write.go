package session

import (
	"encoding/binary"
	"io"
	"net"
	"time"

	"adit/internal/readable"
)

// takeReadyLocked takes the stream's own chunk; it no longer waits for its turn.
func (st *Stream) takeReadyLocked() *chunk {
	c := st.ready
	st.ready = nil
	st.wcond.Broadcast()
	return c
}

// waitWriteLocked waits until the stream has credit, a free turn and memory. If
// merge, bytes that still wait for their turn and can take more are a free turn
// too. It returns how many bytes may be written.
func (st *Stream) waitWriteLocked(merge bool) (int, error) {
	s := st.s
	woken := false // spaceq gave us its turn
	for {
		err := st.werr
		if err == nil {
			err = st.wdeadline.Err()
		}
		if err != nil {
			s.out.spaceq.drop(st)
			s.wakeSpaceLocked()
			return 0, err
		}
		credit := st.frameLimit()
		switch {
		case credit == 0:
		case st.ready != nil:
			if room := st.readyRoom(); merge && room > 0 {
				return min(credit, room), nil
			}
		case !s.hasSpaceLocked() || !woken && !s.out.spaceq.empty():
			s.out.spaceq.push(st)
		default:
			s.out.spaceq.drop(st)
			return credit, nil
		}
		if st.lazy {
			st.lazy = false
			s.flushUnlock()
			s.mu.Lock()
			continue
		}
		queued := st.links[spaceQueue].queued
		st.wcond.Wait()
		woken = queued && !st.links[spaceQueue].queued
	}
}

// frameLimit is how many bytes the next frame may have: 63 KiB, so that others
// get their turn soon; more in a session that is so fast that it takes little
// time all the same, if the stream has credit for that.
func (st *Stream) frameLimit() int {
	if st.s.out.fast && st.credit >= fastData {
		return fastData
	}
	return int(min(st.credit, slowData))
}

// readyRoom is how many bytes fit behind those that wait for their turn.
func (st *Stream) readyRoom() int {
	c := st.ready
	return min(c.room(), fastData-(c.end-c.last-frameHeader))
}

// paceLocked takes note that n bytes enter the sequence, to tell fast sessions:
// those that send a MiB within 4 ms.
func (o *sendState) paceLocked(n int) {
	if o.paced += n; o.paced < 1<<20 {
		return
	}
	now := sinceStart()
	o.fast = now-o.pacedAt < 4*time.Millisecond
	o.paced, o.pacedAt = 0, now
}

// chunkSize is the class of the next chunk for n bytes, with room for more if
// the session is fast: what is written while the chunk waits for its turn joins.
func (st *Stream) chunkSize(n int) int {
	if st.s.out.fast && n >= slowData/2 && st.credit >= 2*fastData {
		return fastChunk
	}
	return chunkFor(frameHeader + n)
}

// Write queues p. It waits while the other side gives no credit or the
// session's send buffer is full. The error is a *ResetError, *RefusedError,
// ErrStopped, ErrStreamClosed, os.ErrDeadlineExceeded or why the session ended.
func (st *Stream) Write(p []byte) (n int, err error) {
	st.wmu.Lock()
	defer st.wmu.Unlock()
	return st.write(p)
}

// write is Write with wmu held.
func (st *Stream) write(p []byte) (n int, err error) {
	s := st.s
	for first := true; first || n < len(p); first = false {
		s.mu.Lock()
		if len(p) == 0 {
			err := st.werr
			s.mu.Unlock()
			return 0, err
		}
		k, err := st.waitWriteLocked(true)
		if err != nil {
			s.mu.Unlock()
			return n, err
		}
		part := p[n : n+min(k, len(p)-n)]
		switch {
		case st.ready != nil:
			st.mergeLocked(part)
		case len(part) <= smallData && s.out.unsent < pendLimit:
			st.spendLocked(len(part))
			s.appendLocked(frameData, st.id, part)
		default:
			c := s.takeChunkLocked(st.chunkSize(len(part)))
			s.mu.Unlock()
			c.appendFrame(frameData, st.id, part)
			s.mu.Lock()
			if st.werr != nil {
				s.freeChunkLocked(c)
				err := st.werr
				s.mu.Unlock()
				return n, err
			}
			st.commitLocked(c, len(part))
		}
		s.wakeSpaceLocked()
		n += len(part)
		s.flushUnlock()
	}
	return n, nil
}

// TryQueue queues all of p for whoever must not wait, and reports true; or
// nothing if Write would wait, fail or need several frames. What was queued
// leaves with SendQueued, or with anything else that the session sends.
func (st *Stream) TryQueue(p []byte) bool {
	if !st.wmu.TryLock() {
		return false
	}
	defer st.wmu.Unlock()
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case st.werr != nil || st.wdeadline.Err() != nil || len(p) > st.frameLimit():
		return false
	case st.ready != nil:
		if len(p) > st.readyRoom() {
			return false
		}
		st.mergeLocked(p)
	case !s.hasSpaceLocked() || !s.out.spaceq.empty():
		return false
	case len(p) <= smallData && s.out.unsent < pendLimit:
		st.spendLocked(len(p))
		s.appendLocked(frameData, st.id, p)
	default:
		c := s.takeChunkLocked(st.chunkSize(len(p)))
		c.appendFrame(frameData, st.id, p)
		st.commitLocked(c, len(p))
	}
	s.wakeSpaceLocked()
	return true
}

// SendQueued has what TryQueue has queued leave, for all streams of the session,
// as far as that does not wait. The rest leaves later by itself.
func (st *Stream) SendQueued() {
	st.s.mu.Lock()
	st.s.flushUnlock()
}

// spendLocked takes note that n bytes are queued.
func (st *Stream) spendLocked(n int) {
	st.credit -= uint64(n)
	st.s.out.paceLocked(n)
	st.lazy = false
	st.accepted = st.accepted || !st.local
}

// mergeLocked appends p to the frame that waits for its turn.
func (st *Stream) mergeLocked(p []byte) {
	st.spendLocked(len(p))
	c := st.ready
	c.end += copy(c.buf[c.end:], p)
	putFrameHeader(c.buf[c.last:], frameData, c.end-c.last-frameHeader, st.id)
}

// commitLocked queues a chunk with one frame of n bytes for its turn.
func (st *Stream) commitLocked(c *chunk, n int) {
	st.spendLocked(n)
	st.ready = c
	st.s.out.bulk.push(st)
}

// ReadFrom sends what it reads from r until io.EOF. It does not end the sending
// direction. If r is a conn whose socket can be waited for, it reads into the
// memory that is sent, and holds none while it waits.
func (st *Stream) ReadFrom(r io.Reader) (n int64, err error) {
	st.wmu.Lock()
	defer st.wmu.Unlock()
	s := st.s
	wait := waiterFor(r)
	if wait == nil {
		return st.copyFrom(r)
	}
	if w, ok := wait.(*socketWaiter); ok {
		r = w
	}
	size := midChunk
	for {
		if err := wait.WaitRead(); err != nil {
			return n, err
		}
		s.mu.Lock()
		k, err := st.waitWriteLocked(false)
		if err != nil {
			s.mu.Unlock()
			return n, err
		}
		c := s.takeChunkLocked(size)
		s.wakeSpaceLocked()
		s.mu.Unlock()

		const at = headroom + frameHeader
		full := min(k, len(c.buf)-at)
		m, rerr := r.Read(c.buf[at : at+full])

		s.mu.Lock()
		if st.werr != nil || m <= 0 {
			s.freeChunkLocked(c)
			err := st.werr
			if err == nil {
				err = rerr
			}
			if err != nil {
				s.mu.Unlock()
				if err == io.EOF {
					err = nil
				}
				return n, err
			}
			s.mu.Unlock()
			continue
		}
		n += int64(m)
		if m <= smallData && s.out.unsent < pendLimit {
			st.spendLocked(m)
			s.appendLocked(frameData, st.id, c.buf[at:at+m])
			s.freeChunkLocked(c)
		} else {
			c.last = headroom
			c.end = at + m
			putFrameHeader(c.buf[headroom:], frameData, m, st.id)
			st.commitLocked(c, m)
		}
		switch {
		case m == full && size < bulkChunk:
			size = bulkChunk
		case m == full && s.out.fast:
			size = fastChunk
		case size == fastChunk && !s.out.fast:
			size = bulkChunk
		case m < chunkSizes[midChunk]/2:
			size = midChunk
		}
		s.flushUnlock()
		if rerr != nil {
			if rerr == io.EOF {
				rerr = nil
			}
			return n, rerr
		}
	}
}

// copyFrom is ReadFrom for a reader that cannot be waited for. What it reads
// into is no part of the session's send buffer: streams that wait for such
// readers would use that up between them.
func (st *Stream) copyFrom(r io.Reader) (n int64, err error) {
	buf := getRecvBuf(1)
	defer buf.release()
	for {
		m, rerr := r.Read(buf.b)
		if m > 0 {
			k, err := st.write(buf.b[:m])
			n += int64(k)
			if err != nil {
				return n, err
			}
		}
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

// waiterFor returns how to wait for r without a buffer, or nil.
func waiterFor(r io.Reader) readWaiter {
	if w, ok := r.(readWaiter); ok {
		return w
	}
	if c, ok := r.(net.Conn); ok {
		if rc, ok := readable.Of(c); ok {
			w := new(socketWaiter)
			w.Init(rc)
			return w
		}
	}
	return nil
}

type socketWaiter struct{ readable.Waiter }

func (w *socketWaiter) WaitRead() error { return w.Wait() }

// addCreditLocked takes note of CREDIT.
func (st *Stream) addCreditLocked(payload []byte) error {
	if len(payload) < 4 {
		return protocolErrorf("CREDIT with %d bytes", len(payload))
	}
	st.credit += uint64(binary.BigEndian.Uint32(payload))
	if st.credit > maxCredit {
		return protocolErrorf("credit of stream %d is over 2^62", st.id)
	}
	st.wcond.Broadcast()
	return nil
}
