package session

import (
	"encoding/binary"
	"errors"
	"io"
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

// referFrom is the size from which a piece of DATA is kept where it was read
// instead of being copied: at most a fifth of what it pins.
const referFrom = 16 << 10

// A recordReader is what a link knows of the record that it is reading.
type recordReader struct {
	header [batchHeader]byte
	got    int
	kind   recordKind
	rest   int  // bytes of body to come
	open   bool // header is complete and body is coming
	skip   int  // bytes of a BATCH that were taken in before
	body   []byte
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

// takeRecords takes in b, which is part of buf.
func (l *link) takeRecords(rr *recordReader, b []byte, buf *recvBuf) error {
	s := l.s
	before := s.in.off.Load()
	for len(b) > 0 {
		if !rr.open {
			var err error
			if b, err = l.recordHeader(rr, b); err != nil {
				return err
			}
			continue
		}
		piece := b[:min(len(b), rr.rest)]
		b = b[len(piece):]
		rr.rest -= len(piece)
		switch rr.kind {
		case recBatch:
			skip := min(rr.skip, len(piece))
			rr.skip -= skip
			if err := s.takeFrames(piece[skip:], buf); err != nil {
				return err
			}
		case recClose:
			rr.body = append(rr.body, piece...)
		}
		if rr.rest == 0 {
			if err := l.endRecord(rr); err != nil {
				return err
			}
		}
	}
	if s.in.answer {
		s.in.answer = false
		s.mu.Lock()
		s.flushUnlock()
	}
	if s.in.off.Load() != before {
		s.ackSoon(l)
	}
	return nil
}

// fixedPart is how much of a record of that kind, record header included, is
// collected before its meaning is clear.
func (k recordKind) fixedPart() int {
	switch k {
	case recBatch, recPing, recPong:
		return batchHeader
	case recAck:
		return recordHeader + 8
	case recClose:
		return recordHeader + 10
	}
	return recordHeader
}

// collect moves bytes from b to the header until it has need of them, and
// returns what is behind.
func (rr *recordReader) collect(b []byte, need int) []byte {
	n := copy(rr.header[rr.got:need], b)
	rr.got += n
	return b[n:]
}

// recordHeader takes in the header of a record and the fixed part of its body,
// and returns what is behind.
func (l *link) recordHeader(rr *recordReader, b []byte) ([]byte, error) {
	if rr.got < recordHeader {
		b = rr.collect(b, recordHeader)
		if rr.got < recordHeader {
			return b, nil
		}
		kind, length := parseRecordHeader(rr.header[:])
		if length > maxRecord {
			return nil, protocolErrorf("record of kind %#x with %d bytes: at most %d", byte(kind), length, maxRecord)
		}
		if least := kind.fixedPart() - recordHeader; length < least {
			return nil, protocolErrorf("record of kind %#x with %d bytes: at least %d", byte(kind), length, least)
		}
	}
	kind, length := parseRecordHeader(rr.header[:])
	fixed := kind.fixedPart()
	if b = rr.collect(b, fixed); rr.got < fixed {
		return b, nil
	}
	rr.kind, rr.rest, rr.got = kind, length-(fixed-recordHeader), 0
	rr.open = true
	if err := l.beginRecord(rr); err != nil {
		return nil, err
	}
	if rr.rest == 0 {
		return b, l.endRecord(rr)
	}
	return b, nil
}

var errGap = errors.New("session: gap in what the carrier delivered")

// beginRecord acts on the fixed part of a record.
func (l *link) beginRecord(rr *recordReader) error {
	s := l.s
	switch rr.kind {
	case recHello, recWelcome, recReject:
		return protocolErrorf("record of kind %#x after the handshake", byte(rr.kind))
	case recBatch, recAck, recPing, recPong, recClose:
	default: // of a later version, and a sign of life
		s.mu.Lock()
		l.pinged = false
		s.mu.Unlock()
		return nil
	}
	ack := binary.BigEndian.Uint64(rr.header[recordHeader:])
	arg := binary.BigEndian.Uint64(rr.header[recordHeader+8:])

	s.mu.Lock()
	if err := s.ackedLocked(l, ack); err != nil {
		s.mu.Unlock()
		return err
	}
	l.pinged = false
	switch rr.kind {
	case recPing:
		l.pong, l.token = true, arg
		s.flushUnlock()
		return nil
	case recPong:
		s.measuredLocked(sinceStart() - time.Duration(arg))
	}
	s.mu.Unlock()

	if rr.kind == recBatch {
		off := s.in.off.Load()
		if arg > off {
			return errGap
		}
		rr.skip = int(min(off-arg, maxRecord))
	}
	return nil
}

// endRecord acts on a record whose body is complete.
func (l *link) endRecord(rr *recordReader) error {
	rr.open = false
	if rr.kind != recClose {
		return nil
	}
	code := binary.BigEndian.Uint16(rr.header[recordHeader+8:])
	err := &ClosedError{Code: code, Reason: cleanReason(string(rr.body)), Remote: true}
	l.s.end(err)
	return io.EOF
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

// takeFrames takes in a run of the other side's sequence, which is part of buf.
func (s *Session) takeFrames(b []byte, buf *recvBuf) error {
	in := &s.in
	for len(b) > 0 {
		if in.got < frameHeader {
			n := copy(in.header[in.got:], b)
			in.got += n
			b = b[n:]
			in.off.Add(uint64(n))
			if in.got < frameHeader {
				return nil
			}
			if err := s.beginFrame(); err != nil {
				return err
			}
			if in.rest > 0 {
				continue
			}
		}
		piece := b[:min(len(b), in.rest)]
		b = b[len(piece):]
		in.rest -= len(piece)
		in.off.Add(uint64(len(piece)))
		switch {
		case in.typ == frameData || in.typ == frameEnd:
			if in.stream != nil && len(piece) > 0 {
				s.deliver(in.stream, piece, buf)
			}
		case in.typ.maxPayload() > 0 && in.rest == 0 && len(in.payload) == 0:
			in.payload = piece // whole, and used before it changes
		case in.typ.maxPayload() > 0:
			in.payload = append(in.payload, piece...)
		}
		if in.rest == 0 {
			in.got = 0
			err := s.endFrame()
			in.stream, in.payload = nil, nil
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// beginFrame checks the header of a frame, and finds the stream of DATA.
func (s *Session) beginFrame() error {
	in := &s.in
	in.typ, in.rest, in.id = parseFrameHeader(in.header[:])
	in.size = in.rest
	limit := in.typ.maxPayload()
	if limit == 0 {
		return nil // of a later version: skipped
	}
	if in.rest > limit {
		return protocolErrorf("frame of type %#x with %d bytes: at most %d", byte(in.typ), in.rest, limit)
	}
	if in.typ != frameData && in.typ != frameEnd {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := s.findLocked(in.id)
	if st == nil {
		return err
	}
	if st.remoteEnded {
		return protocolErrorf("DATA on stream %d behind its END", in.id)
	}
	if uint64(in.rest) > st.left {
		return protocolErrorf("%d bytes on stream %d with a credit of %d", in.rest, in.id, st.left)
	}
	st.left -= uint64(in.rest)
	if st.local && !st.accepted {
		st.accepted = true
		st.wcond.Broadcast()
	}
	in.stream = st
	return nil
}

// findLocked returns the stream of that id, or nil if it is gone; the error is
// for an id that was never used.
func (s *Session) findLocked(id uint64) (*Stream, error) {
	if st := s.streams[id]; st != nil {
		return st, nil
	}
	used := id <= s.peerLast
	if id%2 == s.nextID%2 {
		used = id < s.nextID
	}
	if id == 0 || !used {
		return nil, protocolErrorf("frame for stream %d, which was never opened", id)
	}
	return nil, nil
}

// deliver hands a piece of DATA, which is part of buf, to its stream.
func (s *Session) deliver(st *Stream, piece []byte, buf *recvBuf) {
	st.rmu.Lock()
	if st.rclosed {
		st.rmu.Unlock()
		return
	}
	written, piece := st.writeDirectLocked(piece)
	s.in.through = s.in.large() && (len(piece) == 0 || st.splicing)
	if len(piece) == 0 {
		st.returnCredit(written)
		return
	}
	if len(piece) >= referFrom && 4*len(piece) >= len(buf.b) {
		buf.retain()
		st.segments = append(st.segments, segment{b: piece, buf: buf})
	} else {
		st.collectLocked(piece)
	}
	st.rcond.Signal()
	held := s.in.held.Add(int64(len(piece)))
	st.returnCredit(written)
	if held > int64(s.opts.ReceiveBuffer) {
		st.Reset(resetOverload, "too many bytes of the session wait for their readers")
	}
}

// collectLocked copies a small piece behind the last one, so that many small
// pieces share memory.
func (st *Stream) collectLocked(piece []byte) {
	if n := len(st.segments); n > 0 {
		last := &st.segments[n-1]
		k := min(len(piece), cap(last.b)-len(last.b))
		if last.shared() {
			k = 0
		}
		last.b = append(last.b, piece[:k]...)
		piece = piece[k:]
	}
	for len(piece) > 0 {
		size := 0
		if len(piece) > recvSizes[0] || len(st.segments) > 0 {
			size = 1
		}
		buf := getRecvBuf(size)
		n := copy(buf.b, piece)
		st.segments = append(st.segments, segment{b: buf.b[:n], buf: buf})
		piece = piece[n:]
	}
}

// shared reports whether the memory behind the segment is not its own.
func (seg *segment) shared() bool {
	return seg.pipe != nil || seg.buf.size > 1 || seg.buf.refs.Load() > 1
}

// endFrame acts on a frame whose payload is complete.
func (s *Session) endFrame() error {
	in := &s.in
	switch in.typ {
	case frameData:
		return nil
	case frameOpen:
		return s.onOpen(in.id, in.payload)
	case frameCall:
		return s.onCall(in.id, in.payload)
	case frameResult:
		return s.onResult(in.id, in.payload)
	case frameDrain:
		s.mu.Lock()
		s.peerDraining = true
		s.cond.Broadcast()
		s.mu.Unlock()
		s.notifyChange()
		return nil
	case frameEnd:
		if st := in.stream; st != nil {
			st.rmu.Lock()
			st.eof = true
			st.rcond.Broadcast()
			st.rmu.Unlock()
		}
	case frameAccept, frameCredit, frameRefuse, frameReset, frameStop:
	default:
		return nil // of a later version
	}

	s.mu.Lock()
	st, err := s.findLocked(in.id)
	if st == nil {
		s.mu.Unlock()
		return err
	}
	switch in.typ {
	case frameEnd:
		st.remoteEnded = true
		s.forgetLocked(st)
	case frameAccept:
		st.accepted = true
		st.wcond.Broadcast()
	case frameCredit:
		err = st.addCreditLocked(in.payload)
	case frameStop:
		if _, _, ok := parseCode(in.payload); !ok {
			s.mu.Unlock()
			return protocolErrorf("STOP without a code")
		}
		if st.ready != nil {
			st.ended = false // an END in there goes with it
		}
		st.failLocked(ErrStopped)
		s.endLocked(st)
		s.forgetLocked(st)
		s.mu.Unlock()
		in.answer = true
		return nil
	case frameReset, frameRefuse:
		code, text, ok := parseCode(in.payload)
		if !ok {
			s.mu.Unlock()
			return protocolErrorf("frame of type %#x without a code", byte(in.typ))
		}
		reason := cleanReason(string(text))
		if in.typ == frameRefuse {
			if !st.local || st.accepted {
				s.mu.Unlock()
				return protocolErrorf("REFUSE for stream %d, which was accepted", in.id)
			}
			err = &RefusedError{Code: code, Reason: reason}
		} else {
			err = &ResetError{Code: code, Reason: reason, Remote: true}
		}
		if !st.closed {
			st.werr = nil // of CloseWrite: this one says more
		}
		st.ended, st.remoteEnded = true, true
		st.failLocked(err)
		s.forgetLocked(st)
		s.mu.Unlock()
		st.failRead(err, false)
		return nil
	}
	s.mu.Unlock()
	return err
}

// onOpen takes a stream that the other side opens, or refuses it.
func (s *Session) onOpen(id uint64, meta []byte) error {
	s.mu.Lock()
	if id%2 == s.nextID%2 || id <= s.peerLast {
		s.mu.Unlock()
		return protocolErrorf("OPEN of stream %d after %d", id, s.peerLast)
	}
	s.peerLast = id
	switch {
	case s.err != nil:
	case s.peerOpened >= s.opts.MaxStreams || len(s.acceptq) >= acceptBacklog:
		s.appendCodeLocked(frameRefuse, id, refuseBusy, "too many streams are open")
		s.in.answer = true
	default:
		st := s.newStreamLocked(id, false)
		st.meta = append([]byte(nil), meta...)
		s.peerOpened++
		s.acceptq = append(s.acceptq, st)
		s.cond.Broadcast()
	}
	s.mu.Unlock()
	return nil
}
