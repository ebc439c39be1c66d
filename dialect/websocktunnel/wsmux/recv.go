package wsmux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"adit/internal/readable"
	"adit/internal/wsframe"
)

// A reader is where a session stands in what the other side sends. It belongs
// to the goroutine that reads the conn.
type reader struct {
	head  [wsframe.MaxHeader]byte // nhead bytes of a header that is not whole
	nhead int
	frame wsframe.Header // the one whose payload is being taken in
	open  bool           // there is one
	rest  int64          // bytes of its payload to come
	more  bool           // the message goes on after this frame, or the one that is to come
	ctl   []byte         // payload of a control frame
	msg   message
}

// A message is one frame of the protocol, as far as it has come.
type message struct {
	head [frameHead]byte
	got  int // bytes of head
	typ  Type
	id   uint32
	st   *Stream // of DAT; nil if nobody takes it
	arg  []byte  // of the other types
}

// blindRead is the size of the buffer that waits for bytes where the conn
// cannot be waited for, as with TLS.
const blindRead = 512

// readLoop reads the conn until it ends, and closes it. It holds a buffer only
// while there is something to read, or a small one where it cannot know.
func (s *Session) readLoop() {
	defer s.conn.Close()
	b := bytes.Clone(s.opts.Buffered)
	s.opts.Buffered = nil
	if err := s.take(b); err != nil {
		s.readFailed(err)
		return
	}
	wait := s.waiter()
	size := 0
	var small *[blindRead]byte
	if wait == nil {
		small = new([blindRead]byte)
	}
	for {
		var full bool
		var err error
		if wait != nil {
			size, err = s.readSocket(wait, size)
		} else if full, err = s.readInto(small[:]); err == nil && full {
			// The rest, as a rule.
			b := readBuffers.get(1)
			_, err = s.readInto(b.mem)
			readBuffers.put(b)
		}
		if err != nil {
			s.readFailed(err)
			return
		}
	}
}

// readSocket waits for bytes and reads once, into a buffer of class size. It
// returns the class for the next read.
func (s *Session) readSocket(wait *readable.Waiter, size int) (next int, err error) {
	if err := wait.Wait(); err != nil {
		return size, err
	}
	b := readBuffers.get(size)
	defer readBuffers.put(b)
	n, err := s.conn.Read(b.mem)
	if terr := s.take(b.mem[:n]); terr != nil {
		return size, terr
	}
	switch {
	case n == len(b.mem) && size < len(readBuffers.sizes)-1:
		size++
	case n < readBuffers.sizes[0] && size > 0:
		size--
	}
	return size, err
}

func (s *Session) readInto(b []byte) (full bool, err error) {
	n, err := s.conn.Read(b)
	if terr := s.take(b[:n]); terr != nil {
		return false, terr
	}
	return n == len(b), err
}

// errDiscard is what take returns once the session has ended.
var errDiscard = errors.New("session has ended")

// readFailed ends the session for what is wrong with the conn or with what came
// from it.
func (s *Session) readFailed(err error) {
	pe, ok := errors.AsType[*ProtocolError](err)
	switch {
	case ok:
		s.farewell(err, pe.Code, pe.Reason)
	case err == io.EOF:
		s.end(errGone)
	case err != errDiscard:
		s.end(err)
	}
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if !closing {
		return
	}
	// Until the other side has read the close frame, or time is up.
	b := readBuffers.get(0)
	defer readBuffers.put(b)
	limit := time.Now().Add(farewellTime)
	for left := maxDiscard; left > 0 && time.Now().Before(limit); {
		n, err := s.conn.Read(b.mem)
		if err != nil {
			return
		}
		left -= n
	}
}

// maxDiscard is how much is read, in bytes, while the other side reads a close
// frame.
const maxDiscard = 16 << 20

// take takes in b, which it may change.
func (s *Session) take(b []byte) error {
	r := &s.in
	if len(b) > 0 {
		s.mu.Lock()
		s.heard = true
		s.heardAt = time.Now()
		ended := s.err != nil
		s.mu.Unlock()
		if ended {
			return errDiscard
		}
	}
	for len(b) > 0 {
		if !r.open {
			var err error
			if b, err = s.takeHeader(b); err != nil {
				return err
			}
			if !r.open {
				return nil
			}
		}
		piece := b[:min(int64(len(b)), r.rest)]
		b = b[len(piece):]
		r.rest -= int64(len(piece))
		if r.frame.Key != 0 {
			r.frame.Key = wsframe.Mask(piece, piece, r.frame.Key)
		}
		if r.frame.Op >= wsframe.Close {
			r.ctl = append(r.ctl, piece...)
		} else if err := s.takePayload(piece); err != nil {
			return err
		}
		if r.rest > 0 {
			continue
		}
		r.open = false
		if err := s.endFrame(); err != nil {
			return err
		}
	}
	return nil
}

// takeHeader takes in the header of a WebSocket frame, or a part of it, and
// returns what is behind.
func (s *Session) takeHeader(b []byte) ([]byte, error) {
	r := &s.in
	src := b
	if r.nhead > 0 {
		n := copy(r.head[r.nhead:], b)
		src = r.head[:r.nhead+n]
	}
	h, n, err := wsframe.Parse(src)
	if err != nil {
		return nil, &ProtocolError{wsframe.CloseProtocol, err.Error()}
	}
	if n == 0 {
		r.nhead = copy(r.head[:], src)
		return nil, nil
	}
	b = b[n-r.nhead:]
	r.nhead = 0
	wrong := ""
	switch {
	case h.Masked && s.role == Agent:
		wrong = "masked frame from a server"
	case !h.Masked && s.role == Server:
		wrong = "frame without a mask"
	case h.Op == wsframe.Continuation && !r.more:
		wrong = "continuation frame outside of a message"
	case (h.Op == wsframe.Binary || h.Op == wsframe.Text) && r.more:
		wrong = "new message inside of a fragmented one"
	}
	if wrong != "" {
		return nil, &ProtocolError{wsframe.CloseProtocol, wrong}
	}
	if h.Op == wsframe.Text {
		return nil, &ProtocolError{wsframe.ClosePolicy, badMessage}
	}
	r.frame, r.rest, r.open = h, h.Size, true
	if h.Op < wsframe.Close {
		r.more = true
	}
	if h.Size > 0 {
		return b, nil
	}
	r.open = false
	if err := s.endFrame(); err != nil {
		return nil, err
	}
	if len(b) > 0 {
		return s.takeHeader(b)
	}
	return nil, nil
}

// endFrame acts on a WebSocket frame whose payload is complete.
func (s *Session) endFrame() error {
	r := &s.in
	switch r.frame.Op {
	case wsframe.Ping:
		s.mu.Lock()
		s.out.answer = append(s.out.answer[:0], r.ctl...)
		s.out.owed = true
		s.flushUnlock()
	case wsframe.Pong:
		if s.opts.Extended && len(r.ctl) == 8 {
			s.measured(sinceStart() - time.Duration(binary.LittleEndian.Uint64(r.ctl)))
		}
	case wsframe.Close:
		return s.onClose(r.ctl)
	default:
		if r.more = !r.frame.Fin; !r.more {
			return s.endMessage()
		}
		return nil
	}
	r.ctl = r.ctl[:0]
	return nil
}

// measured takes note of a round trip.
func (s *Session) measured(rtt time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rtt > 0 && (s.rtt == 0 || rtt < s.rtt) {
		s.rtt = rtt
	}
}

// onClose ends the session for a close frame. It is answered with the same
// code, and the conn is closed, for which originals would wait in vain.
func (s *Session) onClose(payload []byte) error {
	ce := &CloseError{Code: 1005}
	if len(payload) >= 2 {
		ce.Code = int(binary.BigEndian.Uint16(payload))
		ce.Reason = shown(payload[2:])
	}
	code := ce.Code
	if code == 1005 {
		code = wsframe.CloseNormal
	}
	var cause error = ce
	if code == closeSuperseded && s.opts.Extended {
		cause = ErrSuperseded
	}
	s.farewell(cause, code, "")
	return errDiscard
}

// takePayload takes in a piece of a message.
func (s *Session) takePayload(b []byte) error {
	m := &s.in.msg
	if m.got < frameHead {
		n := copy(m.head[m.got:], b)
		m.got += n
		b = b[n:]
		if m.got < frameHead {
			return nil
		}
		m.typ, m.id = Type(m.head[0]), binary.LittleEndian.Uint32(m.head[1:])
		if m.typ > FIN && !(m.typ == RST && s.opts.Extended) {
			return &ProtocolError{wsframe.ClosePolicy, badHeader}
		}
		if m.typ == DAT {
			s.mu.Lock()
			m.st = s.streams[m.id]
			s.mu.Unlock()
		}
	}
	if len(b) == 0 {
		return nil
	}
	if m.typ == DAT {
		if m.st != nil && !m.st.deliver(b) {
			m.st = nil
		}
		return nil
	}
	limit := [...]int{SYN: 0, ACK: 4, FIN: 0, RST: 2 + maxReason}[m.typ]
	if len(m.arg)+len(b) > limit {
		return &ProtocolError{wsframe.ClosePolicy, badPayload}
	}
	m.arg = append(m.arg, b...)
	return nil
}

// endMessage acts on a message that is complete.
func (s *Session) endMessage() error {
	m := &s.in.msg
	if m.got < frameHead {
		return &ProtocolError{wsframe.ClosePolicy, badHeader}
	}
	switch m.typ {
	case SYN:
		s.onSYN(m.id)
	case ACK:
		if len(m.arg) != 4 {
			return &ProtocolError{wsframe.ClosePolicy, badPayload}
		}
		s.onACK(m.id, binary.LittleEndian.Uint32(m.arg))
	case FIN:
		s.onFIN(m.id)
	case RST:
		if len(m.arg) < 2 {
			return &ProtocolError{wsframe.ClosePolicy, badPayload}
		}
		s.onRST(m.id, binary.LittleEndian.Uint16(m.arg), shown(m.arg[2:]))
	}
	m.got, m.st, m.arg = 0, nil, m.arg[:0]
	return nil
}
