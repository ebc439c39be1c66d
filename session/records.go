package session

import (
	"encoding/binary"
	"errors"
	"io"
	"time"
)

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
