package session

import (
	"encoding/binary"
	"runtime"
	"time"
)

// A sendState is what this side sends: the sequence from the first byte that
// is not acknowledged, and what will enter it. All of it is guarded by
// Session.mu.
//
//	head → … → next → … → tail     pend      bulk (one chunk of each stream, in turn)
//	kept for replay │ to be sent │ filling │ not in the sequence yet
//
// A chunk is sent as one batch, and freed when all of it is acknowledged: the
// batch and the replay buffer are the same memory.
type sendState struct {
	head, tail *chunk // sealed chunks, in order
	next       *chunk // the first that this carrier has not been given; nil if none
	pend       *chunk // control frames and small data, not sealed
	inFlight   *chunk // being written right now, must not be freed

	acked uint64 // the other side has taken in the bytes before this position
	sent  uint64 // and a carrier has been given those before this one
	end   uint64 // position behind tail

	held   int // bytes of memory in all chunks, those of the streams included
	unsent int // bytes of frames in next…tail and pend

	writing bool // somebody writes to the link

	fast    bool // see paceLocked
	paced   int  // bytes sent since pacedAt
	pacedAt time.Duration

	overflow bool // too much is held, and the session about to end

	spare  [len(chunkSizes)]*chunk // large chunks to be used again, the last one first
	spares int                     // bytes of memory in them

	bulk   streamQueue // streams with a chunk of their own that is ready
	spaceq streamQueue // streams that wait for memory
}

const (
	// smallData is the longest write that is copied behind the control
	// frames instead of waiting for the stream's turn.
	smallData = 4 << 10

	// pendLimit is how much may wait there before small data take turns too.
	pendLimit = 64 << 10

	// controlReserve is what control frames may take beyond the send buffer.
	controlReserve = 1 << 20

	// maxSpares is how many bytes of large chunks a busy session keeps to
	// itself: a chunk that was just acknowledged is still in this CPU's cache.
	maxSpares = 512 << 10

	// inlineBatches is how many batches a caller writes before it leaves the
	// rest to a goroutine.
	inlineBatches = 4
)

func (s *Session) takeChunkLocked(size int) *chunk {
	o := &s.out
	o.held += chunkSizes[size]
	s.opts.Budget.add(chunkSizes[size])
	if c := o.spare[size]; c != nil {
		o.spare[size] = c.next
		o.spares -= chunkSizes[size]
		c.reset()
		return c
	}
	return getChunk(size)
}

func (s *Session) freeChunkLocked(c *chunk) {
	o := &s.out
	o.held -= chunkSizes[c.size]
	s.opts.Budget.add(-chunkSizes[c.size])
	switch {
	case c == o.inFlight: // whoever writes it frees it
	case int(c.size) >= bulkChunk && o.spares < maxSpares:
		c.next = o.spare[c.size]
		o.spare[c.size] = c
		o.spares += chunkSizes[c.size]
	default:
		putChunk(c)
	}
	if o.held == 0 {
		s.freeSparesLocked()
	}
	s.wakeSpaceLocked()
}

// freeSparesLocked gives the spare chunks back, since the session is idle.
func (s *Session) freeSparesLocked() {
	for i, c := range s.out.spare {
		for c != nil {
			next := c.next
			putChunk(c)
			c = next
		}
		s.out.spare[i] = nil
	}
	s.out.spares = 0
}

// hasSpaceLocked reports whether data may take more memory.
func (s *Session) hasSpaceLocked() bool {
	return s.out.held < s.opts.SendBuffer &&
		(s.out.held < budgetFloor || !s.opts.Budget.exhausted())
}

// pendRoomLocked makes room for n bytes of frames in pend and returns it.
func (s *Session) pendRoomLocked(n int) *chunk {
	o := &s.out
	if o.pend != nil && o.pend.room() < n {
		size := int(o.pend.size) + 1
		if size < len(chunkSizes) && o.pend.len()+n+headroom <= chunkSizes[size] {
			bigger := s.takeChunkLocked(size)
			bigger.last = o.pend.last
			bigger.end += copy(bigger.buf[headroom:], o.pend.buf[o.pend.off:o.pend.end])
			s.freeChunkLocked(o.pend)
			o.pend = bigger
		} else {
			s.sealLocked(o.pend)
			o.pend = nil
		}
	}
	if o.pend == nil || o.pend.room() < n {
		if o.pend != nil {
			s.sealLocked(o.pend)
		}
		o.pend = s.takeChunkLocked(chunkFor(n))
	}
	o.unsent += n
	return o.pend
}

// appendLocked queues a frame behind the control frames.
func (s *Session) appendLocked(t frameType, id uint64, payload []byte) {
	if s.err != nil || s.out.overflow {
		return
	}
	s.pendRoomLocked(frameHeader+len(payload)).appendFrame(t, id, payload)
	if s.out.held > s.opts.SendBuffer+controlReserve && !s.out.overflow {
		s.out.overflow = true
		go s.closeWith(&ClosedError{Code: CloseOverflow}, protocolErrorf("the other side leaves %d bytes unacknowledged", s.out.held))
	}
}

// appendCodeLocked queues a frame with a code and a reason.
func (s *Session) appendCodeLocked(t frameType, id uint64, code uint16, reason string) {
	var b [2 + maxReason]byte
	binary.BigEndian.PutUint16(b[:], code)
	s.appendLocked(t, id, b[:2+copy(b[2:], reason)])
}

func (s *Session) appendCodelessLocked(t frameType, id uint64, text string) {
	s.appendLocked(t, id, []byte(text))
}

func (s *Session) appendCreditLocked(id uint64, n int) {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	s.appendLocked(frameCredit, id, b[:])
}

// sealLocked makes c the end of the sequence.
func (s *Session) sealLocked(c *chunk) {
	o := &s.out
	c.seq = o.end
	o.end += uint64(c.len())
	if o.tail == nil {
		o.head = c
	} else {
		o.tail.next = c
	}
	o.tail = c
	if o.next == nil {
		o.next = c
	}
}

// nextChunkLocked returns the next chunk of the sequence to be sent, and seals
// some if there is none: control frames and small data, and behind them a chunk
// of the stream whose turn it is, so that neither kind waits for more than one
// batch of the other.
func (s *Session) nextChunkLocked() *chunk {
	o := &s.out
	if o.next == nil {
		if st := o.bulk.peek(); o.pend != nil || st != nil && st.ready.len() <= smallData {
			s.gatherLocked()
			s.sealLocked(o.pend)
			o.pend = nil
		}
		if st := o.bulk.pop(); st != nil {
			c := st.takeReadyLocked()
			o.unsent += c.len()
			s.sealLocked(c)
		}
	}
	c := o.next
	if c != nil {
		o.next = c.next
		o.unsent -= c.len()
	}
	return c
}

// gatherLocked moves the small chunks of the streams whose turn it is into
// pend, so that they share a batch.
func (s *Session) gatherLocked() {
	o := &s.out
	for {
		st := o.bulk.peek()
		if st == nil || st.ready.len() > smallData {
			return
		}
		n := st.ready.len()
		if o.pend != nil && o.pend.len()+n > pendLimit {
			return
		}
		o.bulk.pop()
		c := st.takeReadyLocked()
		p := s.pendRoomLocked(n)
		p.end += copy(p.buf[p.end:], c.buf[c.off:c.end])
		s.freeChunkLocked(c)
	}
}

// nextMessageLocked returns the next record to be sent on l, in a buffer with
// the carrier's headroom before off, or nil.
func (s *Session) nextMessageLocked(l *link) (buf []byte, off int) {
	taken := s.in.off.Load()
	if l.pong || l.ping {
		kind, token := recPong, l.token
		if !l.pong {
			kind, token = recPing, uint64(sinceStart())
			l.ping, l.pinged = false, true
		} else {
			l.pong = false
		}
		buf, off = l.record(kind, taken, 16)
		binary.BigEndian.PutUint64(buf[off+12:], token)
		s.in.acked = taken
		return buf, off
	}
	o := &s.out
	if s.reasons.late && !s.reasons.sent {
		return s.closeRecordLocked(taken)
	}
	if c := s.nextChunkLocked(); c != nil {
		if o.acked == o.sent {
			l.progress = sinceStart() // from now on there is something to acknowledge
		}
		o.inFlight = c
		o.sent = max(o.sent, c.seqEnd())
		off := c.off - batchHeader
		putRecordHeader(c.buf[off:], recBatch, batchHeader-recordHeader+c.len())
		binary.BigEndian.PutUint64(c.buf[off+4:], taken)
		binary.BigEndian.PutUint64(c.buf[off+12:], c.seq)
		s.in.acked = taken
		l.ackNow = false
		return c.buf[:c.end], off
	}
	if l.ackNow {
		l.ackNow = false
		s.in.acked = taken
		return l.record(recAck, taken, 8)
	}
	if s.reasons.record != nil && !s.reasons.sent {
		return s.closeRecordLocked(taken)
	}
	return nil, 0
}

// closeRecordLocked returns CLOSE as nextMessageLocked does.
func (s *Session) closeRecordLocked(taken uint64) ([]byte, int) {
	r := s.reasons.record
	s.reasons.sent = true
	b := make([]byte, headroom+recordHeader, headroom+recordHeader+10+len(r.Reason))
	b = binary.BigEndian.AppendUint64(b, taken)
	b = binary.BigEndian.AppendUint16(b, r.Code)
	b = append(b, r.Reason...)
	putRecordHeader(b[headroom:], recClose, len(b)-headroom-recordHeader)
	return b, headroom
}

// record fills the link's scratch with a record that has an ack and length
// bytes of body.
func (l *link) record(kind recordKind, ack uint64, length int) ([]byte, int) {
	const off = headroom - recordHeader
	putRecordHeader(l.scratch[off:], kind, length)
	binary.BigEndian.PutUint64(l.scratch[headroom:], ack)
	return l.scratch[:headroom+length], off
}

// wantsWriteLocked reports whether there is something to send on l.
func (s *Session) wantsWriteLocked(l *link) bool {
	o := &s.out
	return o.next != nil || o.pend != nil || !o.bulk.empty() || l.ackNow || l.ping || l.pong ||
		s.reasons.record != nil && !s.reasons.sent
}

// flushUnlock releases mu and sees to it that what is queued is written. If
// nobody writes, the caller does, as far as that does not block; a goroutine
// does the rest. Whoever queues something while somebody writes has it sent
// with the next batch.
func (s *Session) flushUnlock() {
	l := s.link
	if l == nil || l.mute || s.out.writing || !s.wantsWriteLocked(l) {
		s.mu.Unlock()
		return
	}
	s.out.writing = true
	if l.msg == nil {
		s.mu.Unlock()
		go s.flushLoop(l, false)
		return
	}
	if len(s.streams) > 1 {
		// Others that are ready to run may have something for this batch:
		// a switch costs far less than a write of its own.
		s.mu.Unlock()
		runtime.Gosched()
		s.mu.Lock()
		if s.link != l {
			s.writtenLocked()
			return
		}
	}
	for range inlineBatches {
		buf, off := s.nextMessageLocked(l)
		if buf == nil {
			s.writtenLocked()
			return
		}
		s.mu.Unlock()
		done, err := l.msg.TryWriteMessage(buf, off)
		if !done && err == nil {
			go s.flushLoop(l, true)
			return
		}
		s.mu.Lock()
		if !s.wroteLocked(l, err) {
			return
		}
	}
	s.mu.Unlock()
	go s.flushLoop(l, false)
}

// flushLoop writes until there is nothing left, and blocks where the carrier
// does. unfinished says that a message was begun. It owns out.writing.
func (s *Session) flushLoop(l *link, unfinished bool) {
	var err error
	if unfinished {
		err = l.msg.FlushMessage()
		s.mu.Lock()
		if !s.wroteLocked(l, err) {
			return
		}
	} else {
		s.mu.Lock()
	}
	for {
		buf, off := s.nextMessageLocked(l)
		if buf == nil {
			s.writtenLocked()
			return
		}
		s.mu.Unlock()
		if l.msg == nil {
			_, err = l.conn.Write(buf[off:])
		} else {
			var done bool
			done, err = l.msg.TryWriteMessage(buf, off)
			if !done && err == nil {
				err = l.msg.FlushMessage()
			}
		}
		s.mu.Lock()
		if !s.wroteLocked(l, err) {
			return
		}
	}
}

// wroteLocked takes note that the last message was written, or failed. It
// reports false, with mu released and writing over, if the link is not to be
// written any more.
func (s *Session) wroteLocked(l *link, err error) bool {
	if c := s.out.inFlight; c != nil {
		s.out.inFlight = nil
		if s.err != nil {
			putChunk(c) // the session has ended: it was left for us
		} else {
			s.trimLocked()
		}
	}
	if err == nil && s.link == l {
		return true
	}
	s.writtenLocked()
	if err != nil {
		l.fail(err)
	}
	return false
}

// writtenLocked ends the writing and releases mu.
func (s *Session) writtenLocked() {
	s.out.writing = false
	if s.link == nil || s.reasons.record != nil || s.err != nil {
		s.cond.Broadcast() // somebody may wait for it
	}
	s.mu.Unlock()
}

// wakeSpaceLocked lets the stream that has waited longest for memory go on, if
// there is some. That stream calls it again, whatever becomes of it, and so
// does whoever frees memory.
func (s *Session) wakeSpaceLocked() {
	if s.hasSpaceLocked() {
		if st := s.out.spaceq.pop(); st != nil {
			st.wcond.Broadcast()
		}
	}
}
