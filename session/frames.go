package session

// referFrom is the size from which a piece of DATA is kept where it was read
// instead of being copied: at most a fifth of what it pins.
const referFrom = 16 << 10

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
	s.in.through = s.in.large() && st.splicing
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
