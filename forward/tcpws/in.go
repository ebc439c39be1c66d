package tcpws

import (
	"encoding/binary"
	"errors"
	"io"
	"time"

	"adit/internal/wsframe"
)

// An inState is where the way from ws to tcp stands.
type inState struct {
	l     *link
	fills fill

	size int     // class of buf
	buf  *[]byte // nil while nothing is there
	b    []byte  // what is read and not yet taken, part of buf or of l.early
	next int     // how much to read at most; 0 is as much as there is room

	message bool   // within a message
	text    bool   // and that is one of text
	words   []byte // of it, so far
	discard bool   // nobody reads what comes
}

// in moves what comes from ws to tcp, until the WebSocket ends.
func (l *link) in() {
	s := inState{l: l, b: l.early}
	err := s.run()
	s.release()
	in, out := l.ended()
	var pe *protocolError
	switch {
	case l.failed(), err == nil:
	case errors.As(err, &pe):
		payload := binary.BigEndian.AppendUint16(nil, wsframe.CloseProtocol)
		l.accuse(append(payload, pe.err.Error()...), pe.err)
	case errors.Is(err, errText):
		l.accuse(nil, err)
	case errors.Is(err, errPeerTCP):
		l.tcp.flush() // what came before, which a reset would discard
		l.fail(err)
	case in && out, l.isShut() && !l.features.ends:
		// It has said all, or does not mind that it has not.
		if !in {
			closeWrite(l.tcp.Conn)
		}
		l.tcp.SetReadDeadline(time.Now().Add(drainTime))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		l.fail(errBroken)
	default:
		l.fail(err)
	}
}

// accuse ends the link for a fault of the other side, and lets that know.
func (l *link) accuse(payload []byte, err error) {
	l.ws.SetWriteDeadline(time.Now().Add(graceTime)) // it may read nothing
	l.close(payload)
	l.endSending()
	l.lose(err)
	l.tcp.flush() // what came before is sound
	abort(l.tcp.Conn)
	l.ws.SetReadDeadline(time.Now().Add(drainTime))
	io.Copy(io.Discard, l.ws.Conn)
	l.fail(err)
}

func (l *link) isShut() bool {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	return l.shut
}

// A protocolError is a breach of RFC 6455.
type protocolError struct{ err error }

func (e *protocolError) Error() string { return e.err.Error() }
func (e *protocolError) Unwrap() error { return e.err }

// run returns nil after the other side's close frame.
func (s *inState) run() error {
	for {
		h, n, err := wsframe.Parse(s.b)
		if err != nil {
			return &protocolError{err}
		}
		if n == 0 {
			if err := s.fill(); err != nil {
				return err
			}
			continue
		}
		if h.Masked == s.l.client {
			return &protocolError{errMasking}
		}
		s.b = s.b[n:]
		if h.Op >= wsframe.Close {
			over, err := s.control(h)
			if over || err != nil {
				return err
			}
			continue
		}
		if (h.Op == wsframe.Continuation) != s.message {
			return &protocolError{errSequence}
		}
		if h.Op != wsframe.Continuation {
			s.text = h.Op == wsframe.Text
		}
		s.message = !h.Fin
		if s.text {
			err = s.takeText(h)
		} else {
			err = s.takeData(h)
		}
		if err != nil {
			return err
		}
	}
}

// fill reads more behind what is there. While it waits for the first byte it
// holds no buffer.
func (s *inState) fill() error {
	n, err := s.l.ws.read(s)
	s.next = 0
	if err != nil {
		return err
	}
	s.l.heard()
	s.b = s.b[:len(s.b)+n]
	switch {
	case len(s.b) == bufferSizes[0] && s.size == 0:
		s.size = 1 // of the next one
	case len(s.b) < bufferSizes[0]/4:
		s.size = 0
	}
	return nil
}

// lend returns the room behind what is there.
func (s *inState) lend() []byte {
	if len(s.b) == 0 {
		s.release() // a larger one may be due
	}
	if s.buf == nil {
		s.buf = getBuffer(s.size)
	}
	have := copy(*s.buf, s.b) // of l.early, or from behind in the buffer
	s.b = (*s.buf)[:have]
	room := len(*s.buf)
	if s.next > 0 {
		room = min(room, max(s.next, have+1))
	}
	return (*s.buf)[have:room]
}

func (s *inState) giveBack() {
	if len(s.b) == 0 {
		s.release()
	}
}

// release gives the buffer back; nothing is in it.
func (s *inState) release() {
	if s.buf != nil {
		for size := range bufferSizes {
			if len(*s.buf) == bufferSizes[size] {
				putBuffer(size, s.buf)
			}
		}
		s.buf, s.b = nil, nil
	}
}

// collect returns a payload of at most 125 bytes, which the next fill
// overwrites.
func (s *inState) collect(h wsframe.Header) ([]byte, error) {
	for int64(len(s.b)) < h.Size {
		if err := s.fill(); err != nil {
			return nil, unexpected(err)
		}
	}
	p := s.b[:h.Size]
	s.b = s.b[h.Size:]
	if h.Masked {
		wsframe.Mask(p, p, h.Key)
	}
	return p, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// control acts on a control frame. over says that it was the last frame.
func (s *inState) control(h wsframe.Header) (over bool, err error) {
	p, err := s.collect(h)
	if err != nil {
		return false, err
	}
	switch h.Op {
	case wsframe.Ping:
		s.l.answerPing(p)
	case wsframe.Close:
		if !wsframe.IsClose(p) {
			return false, &protocolError{errClose}
		}
		s.l.peerShut(p)
		return true, nil
	}
	return false, nil
}

// takeText takes a frame of text, which only our own send.
func (s *inState) takeText(h wsframe.Header) error {
	if !s.l.features.ends || h.Size > int64(maxText-len(s.words)) {
		return errText
	}
	p, err := s.collect(h)
	if err != nil {
		return err
	}
	s.words = append(s.words, p...)
	if s.message {
		return nil
	}
	word := string(s.words)
	s.words = s.words[:0]
	switch word {
	case textEnd:
		return s.l.endIn()
	case textReset:
		return errPeerTCP
	}
	return errText
}

// takeData passes a frame's payload on.
func (s *inState) takeData(h wsframe.Header) error {
	left, key := h.Size, h.Key
	for left > 0 {
		if len(s.b) == 0 {
			if left >= spliceFrom && key == 0 && !s.discard && s.l.canSpliceIn() {
				n, ok, err := s.spliceIn(left)
				left -= n
				if err != nil {
					return err
				}
				if ok {
					continue
				}
			}
			if err := s.fill(); err != nil {
				return unexpected(err)
			}
		}
		p := s.b[:min(int64(len(s.b)), left)]
		if h.Masked && key != 0 {
			key = wsframe.Mask(p, p, key)
		}
		s.b = s.b[len(p):]
		left -= int64(len(p))
		s.deliver(p)
	}
	return nil
}

// spliceIn moves up to left bytes of payload without copying them, and reports
// false if that cannot be done now.
func (s *inState) spliceIn(left int64) (n int64, ok bool, err error) {
	s.release()
	n, ok, err = s.l.spliceIn(&s.fills, left)
	s.l.received.Add(n)
	s.l.heard()
	if werr := (*writeError)(nil); errors.As(err, &werr) {
		s.discard = true
		err = nil
	}
	if n == left {
		// The next header comes alone, so that what is behind it need not be
		// copied.
		s.next = 10
		if !s.l.client {
			s.next = wsframe.MaxHeader
		}
	}
	return n, ok, unexpected(err)
}

// A writeError is an error of writing to tcp.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// deliver writes to tcp.
func (s *inState) deliver(p []byte) {
	s.l.received.Add(int64(len(p)))
	if s.discard {
		return
	}
	s.l.tmu.Lock()
	defer s.l.tmu.Unlock()
	if _, err := s.l.tcp.Write(p); err != nil {
		s.discard = true
		s.l.discard(err)
	}
}
