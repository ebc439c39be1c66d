package wsmux

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"time"

	"adit/internal/wsframe"
)

// A sendState is what waits to be sent. It is guarded by Session.mu.
type sendState struct {
	first []byte // goes out before everything else
	queue []*buffer
	pend  *buffer // frames, behind those in queue
	keys  *rand.ChaCha8
	// keys yields the masking keys. It is a stream cipher with a secret seed,
	// so that nobody who sees keys can tell the next one. It is nil if there
	// is none to yield.

	ping, pong bool   // are due
	answer     []byte // to the last ping, if owed
	owed       bool

	unsent  int  // bytes in queue and pend, and those that are being written
	writing bool // somebody writes to the conn
	cut     bool // a write ended within a batch

	spaceq streamQueue // streams that wait for unsent to fall
}

const (
	// maxData is the longest payload of a DAT that is sent, in bytes, as that
	// of the originals.
	maxData = 32 << 10

	// smallData is the longest write that need not wait for its turn, and
	// smallLimit how much may be unsent nevertheless.
	smallData  = 4 << 10
	smallLimit = 256 << 10

	// sendLimit is how much may be unsent when a longer one gets its turn.
	sendLimit = 128 << 10

	// controlLimit is how much may be unsent when frames other than DAT are
	// queued; the other side does not read.
	controlLimit = 4 << 20

	// inlineBatches is how many batches a caller writes before it leaves the
	// rest to a goroutine.
	inlineBatches = 4
)

var errUnread = errors.New("the other side does not read what it causes to be sent")

// appendMessage appends a whole message, or a control frame, with one payload
// in up to two parts.
func (o *sendState) appendMessage(b []byte, role Role, op byte, parts ...[]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	var key uint32
	if o.keys != nil {
		key = uint32(o.keys.Uint64())
	}
	b = wsframe.Append(b, op, size, role == Agent, key)
	at := len(b)
	for _, p := range parts {
		b = append(b, p...)
	}
	if key != 0 {
		wsframe.Mask(b[at:], b[at:], key)
	}
	return b
}

// roomLocked returns a buffer with room for n bytes.
func (o *sendState) roomLocked(n int) *buffer {
	if o.pend != nil && o.pend.room() < n {
		if want := o.pend.len() + n; want <= batchMax {
			bigger := batches.get(batches.class(want))
			bigger.w = copy(bigger.mem, o.pend.bytes())
			batches.put(o.pend)
			o.pend = bigger
		} else {
			o.queue = append(o.queue, o.pend)
			o.pend = nil
		}
	}
	if o.pend == nil {
		o.pend = batches.get(batches.class(n))
	}
	return o.pend
}

// appendLocked queues a frame.
func (s *Session) appendLocked(t Type, stream uint32, payload []byte) {
	o := &s.out
	if s.err != nil {
		return
	}
	var head [frameHead]byte
	head[0] = byte(t)
	binary.LittleEndian.PutUint32(head[1:], stream)
	b := o.roomLocked(wsframe.MaxHeader + frameHead + len(payload))
	before := b.w
	b.w = len(o.appendMessage(b.mem[:b.w], s.role, wsframe.Binary, head[:], payload))
	o.unsent += b.w - before
	if t != DAT && o.unsent > controlLimit && o.unsent-(b.w-before) <= controlLimit {
		s.wg.Go(func() { s.end(errUnread) })
	}
}

func (s *Session) appendCreditLocked(stream uint32, n int) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], uint32(n))
	s.appendLocked(ACK, stream, b[:])
}

// controlLocked queues the control frames that are due.
func (s *Session) controlLocked() {
	o := &s.out
	add := func(op byte, payload []byte) {
		b := o.roomLocked(wsframe.MaxHeader + len(payload))
		before := b.w
		b.w = len(o.appendMessage(b.mem[:b.w], s.role, op, payload))
		o.unsent += b.w - before
	}
	if o.owed {
		add(wsframe.Pong, o.answer)
	}
	if o.pong {
		add(wsframe.Pong, nil)
	}
	if o.ping {
		var now []byte
		if s.opts.Extended { // originals send empty ones
			now = binary.LittleEndian.AppendUint64(nil, uint64(sinceStart()))
		}
		add(wsframe.Ping, now)
	}
	o.owed, o.pong, o.ping = false, false, false
}

var processStart = time.Now()

// sinceStart is a time that is cheap to compute and to compare.
func sinceStart() time.Duration { return time.Since(processStart) }

func (o *sendState) wantsWrite() bool {
	return o.first != nil || o.pend != nil || len(o.queue) > 0 || o.owed || o.ping || o.pong
}

// nextLocked returns what is to be written next, or nil.
func (s *Session) nextLocked() *buffer {
	o := &s.out
	if o.first != nil {
		b := &buffer{mem: o.first, w: len(o.first), class: -1}
		o.first = nil
		o.unsent += b.len()
		if o.pend == nil && len(o.queue) == 0 {
			// The first ping comes along.
			s.controlLocked()
			b.mem = append(b.mem, o.pend.bytes()...)
			b.w = len(b.mem)
			batches.put(o.pend)
			o.pend = nil
		}
		return b
	}
	if len(o.queue) > 0 {
		b := o.queue[0]
		o.queue[0] = nil
		if o.queue = o.queue[1:]; len(o.queue) == 0 {
			o.queue = nil
		}
		return b
	}
	if o.owed || o.ping || o.pong {
		s.controlLocked()
	}
	b := o.pend
	o.pend = nil
	return b
}

// drop forgets what waits to be sent. What is being written is not touched.
func (o *sendState) drop() {
	for _, b := range o.queue {
		o.unsent -= b.len()
		batches.put(b)
	}
	if o.pend != nil {
		o.unsent -= o.pend.len()
		batches.put(o.pend)
	}
	o.queue, o.pend, o.first = nil, nil, nil
	o.owed, o.ping, o.pong = false, false, false
	for o.spaceq.pop() != nil { // each is woken by its failure
	}
}

// flushUnlock releases mu and sees to it that what is queued is written. If
// nobody writes, the caller does, as far as that does not block; a goroutine
// does the rest. Whoever queues something while somebody writes has it sent
// with the next batch.
func (s *Session) flushUnlock() {
	o := &s.out
	if s.err != nil || !s.started || o.writing || !o.wantsWrite() {
		s.mu.Unlock()
		return
	}
	o.writing = true
	if s.sock == nil {
		s.wg.Go(func() { s.flushLoop(nil) })
		s.mu.Unlock()
		return
	}
	if len(s.streams) > 1 {
		// Others that are ready to run may have something for this batch:
		// a switch costs far less than a write of its own.
		s.mu.Unlock()
		runtime.Gosched()
		s.mu.Lock()
	}
	for range inlineBatches {
		if s.err != nil {
			break
		}
		b := s.nextLocked()
		if b == nil {
			s.writtenLocked()
			return
		}
		s.mu.Unlock()
		n, err := s.sock.Write(b.bytes())
		b.r += n
		s.mu.Lock()
		switch {
		case err != nil:
			s.wroteLocked(b, err)
			return
		case b.len() > 0 && s.err != nil:
			o.cut = true
			s.dropUnlock(b)
			return
		case b.len() > 0:
			s.sentLocked(n)
			s.wg.Go(func() { s.flushLoop(b) })
			s.mu.Unlock()
			return
		}
		s.freeLocked(b, n)
	}
	if s.err == nil && o.wantsWrite() {
		s.wg.Go(func() { s.flushLoop(nil) })
		s.mu.Unlock()
		return
	}
	s.writtenLocked()
}

// flushDelay is how long what nobody waits for may stay unsent.
const flushDelay = 10 * time.Millisecond

// flushSoonLocked sees to it that what is queued now goes out after flushDelay
// at the latest.
func (s *Session) flushSoonLocked() {
	switch {
	case s.armed:
	case s.soon == nil:
		s.soon = time.AfterFunc(flushDelay, func() {
			s.mu.Lock()
			s.armed = false
			s.flushUnlock()
		})
	default:
		s.soon.Reset(flushDelay)
	}
	s.armed = true
}

// flushLoop writes b, if it is not nil, and all that follows, and blocks where
// the conn does. It owns out.writing.
func (s *Session) flushLoop(b *buffer) {
	s.mu.Lock()
	for {
		if b == nil && s.err == nil {
			b = s.nextLocked()
		}
		if b == nil {
			s.writtenLocked()
			return
		}
		s.mu.Unlock()
		n, err := s.conn.Write(b.bytes())
		b.r += n
		s.mu.Lock()
		if err != nil {
			s.wroteLocked(b, err)
			return
		}
		s.freeLocked(b, n)
		b = nil
	}
}

// wroteLocked takes note that writing b failed. It releases mu.
func (s *Session) wroteLocked(b *buffer, err error) {
	s.out.cut = true
	s.dropUnlock(b)
	s.end(err)
}

func (s *Session) dropUnlock(b *buffer) {
	s.freeLocked(b, b.len())
	s.writtenLocked()
}

// freeLocked takes note that the last n bytes of b are gone.
func (s *Session) freeLocked(b *buffer, n int) {
	s.sentLocked(n)
	if b.class >= 0 {
		batches.put(b)
	}
}

// sentLocked lets the stream that has waited longest go on, if there is room.
// That stream calls wakeLocked itself, whatever becomes of it.
func (s *Session) sentLocked(n int) {
	s.out.unsent -= n
	s.wakeLocked()
}

func (s *Session) wakeLocked() {
	if s.out.unsent < sendLimit {
		if st := s.out.spaceq.pop(); st != nil {
			st.wcond.Broadcast()
		}
	}
}

// writtenLocked ends the writing and releases mu.
func (s *Session) writtenLocked() {
	s.out.writing = false
	if s.err != nil {
		s.cond.Broadcast() // farewell waits for it
	}
	s.mu.Unlock()
}

// A streamQueue is a queue of streams, linked through the streams themselves.
type streamQueue struct{ first, last *Stream }

func (q *streamQueue) empty() bool { return q.first == nil }

// push appends st, unless it is queued already.
func (q *streamQueue) push(st *Stream) {
	if st.queued {
		return
	}
	st.queued = true
	if q.last == nil {
		q.first = st
	} else {
		q.last.next = st
	}
	q.last = st
}

func (q *streamQueue) pop() *Stream {
	st := q.first
	if st != nil {
		q.first = st.next
		if q.first == nil {
			q.last = nil
		}
		st.next, st.queued = nil, false
	}
	return st
}

// drop takes st out, wherever it is.
func (q *streamQueue) drop(st *Stream) {
	if !st.queued {
		return
	}
	var before *Stream
	for at := q.first; at != st; at = at.next {
		before = at
	}
	if before == nil {
		q.pop()
		return
	}
	before.next = st.next
	if q.last == st {
		q.last = before
	}
	st.next, st.queued = nil, false
}
