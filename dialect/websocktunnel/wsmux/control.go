package wsmux

import (
	"encoding/binary"

	"adit/internal/printable"
	"adit/tunnel"
)

// onSYN takes a stream that the server opens. One whose number is in use is
// ignored, and so are those that an agent opens, as the originals do: they wait
// in their queue for ever.
func (s *Session) onSYN(id uint32) {
	if s.role == Server {
		return
	}
	s.mu.Lock()
	if s.err != nil || s.streams[id] != nil {
		s.mu.Unlock()
		return
	}
	if len(s.streams) >= s.opts.MaxStreams {
		s.refuseLocked(id, tunnel.RefuseBusy, "too many streams are open")
		s.flushUnlock()
		return
	}
	st := s.newStreamLocked(id)
	s.acceptq = append(s.acceptq, st)
	s.cond.Broadcast()
	s.mu.Unlock()
}

// refuseLocked turns down a stream that is not there. Without the extension the
// only way is to accept and end it.
func (s *Session) refuseLocked(id uint32, code tunnel.RefuseCode, reason string) {
	if s.opts.Extended {
		s.appendResetLocked(id, uint16(code), reason)
		return
	}
	s.appendCreditLocked(id, s.opts.Window)
	s.appendLocked(FIN, id, nil)
}

func (s *Session) appendResetLocked(id uint32, code uint16, reason string) {
	b := binary.LittleEndian.AppendUint16(make([]byte, 0, 2+maxReason), code)
	b = append(b, printable.Cut(reason, maxReason)...)
	s.appendLocked(RST, id, b)
}

func (s *Session) onACK(id, credit uint32) {
	s.mu.Lock()
	st := s.streams[id]
	if st == nil {
		s.mu.Unlock()
		return
	}
	st.credit = min(st.credit+int64(credit), maxCredit)
	if s.role == Server && !st.accepted {
		s.acceptedLocked(st, int(credit))
	}
	st.wcond.Broadcast()
	s.flushUnlock()
}

// acceptedLocked takes note of the first ACK of a stream that this side opened.
func (s *Session) acceptedLocked(st *Stream, credit int) {
	st.accepted, st.acked = true, true
	s.freeSlotLocked()
	if !s.opts.Extended {
		st.setPeerWindow(credit)
	}
	if st.closed {
		// It was given up meanwhile, which can only be said now.
		s.finishLocked(st)
	}
}

// freeSlotLocked lets the next one open that waits for it.
func (s *Session) freeSlotLocked() {
	s.pending--
	if e := s.waiting.Front(); e != nil && s.pending < s.opts.MaxUnaccepted {
		s.pending++
		close(s.waiting.Remove(e).(chan struct{}))
	}
}

func (s *Session) onFIN(id uint32) {
	s.mu.Lock()
	st := s.streams[id]
	if st == nil || st.finReceived {
		s.mu.Unlock()
		return
	}
	st.finReceived = true
	refused := s.role == Server && !st.accepted
	if refused {
		// The originals forget such a FIN. It can mean only one thing.
		s.freeSlotLocked()
		st.accepted = true
		st.finSent = true
		st.failLocked(&tunnel.RefusedError{Code: tunnel.RefuseInternal, Reason: "the agent ended the stream instead of accepting it"})
	}
	err := st.werr
	s.forgetLocked(st)
	s.mu.Unlock()
	if refused {
		st.failRead(err, false)
		return
	}
	st.endRead()
}

func (s *Session) onRST(id uint32, code uint16, reason string) {
	s.mu.Lock()
	st := s.streams[id]
	if st == nil {
		s.mu.Unlock()
		return
	}
	var err error = &tunnel.ResetError{Code: tunnel.ResetCode(code), Reason: reason}
	if s.role == Server && !st.accepted {
		err = &tunnel.RefusedError{Code: tunnel.RefuseCode(code), Reason: reason}
		s.freeSlotLocked()
		st.accepted = true
	}
	st.finSent, st.finReceived = true, true
	if !st.closed {
		st.werr = nil // of CloseWrite: this one says more
	}
	st.failLocked(err)
	s.forgetLocked(st)
	s.mu.Unlock()
	st.failRead(err, false)
}

// shown makes text of the other side fit for logs.
func shown(b []byte) string { return printable.Text(string(b[:min(len(b), maxReason)])) }
