package session

// ackedLocked takes note that the other side has taken in everything before
// position n.
func (s *Session) ackedLocked(l *link, n uint64) error {
	o := &s.out
	switch {
	case n > o.sent:
		return protocolErrorf("acknowledged %d bytes of %d sent", n, o.sent)
	case n <= o.acked:
		return nil
	}
	o.acked = n
	l.progress = sinceStart()
	s.trimLocked()
	return nil
}

// trimLocked frees what is acknowledged.
func (s *Session) trimLocked() {
	o := &s.out
	for c := o.head; c != nil && c != o.inFlight && c.seqEnd() <= o.acked && c != o.next; c = o.head {
		o.head = c.next
		if o.head == nil {
			o.tail = nil
		}
		s.freeChunkLocked(c)
	}
}

// canRewind reports whether a new carrier can begin at position received.
func (s *Session) canRewind(received uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.canRewindLocked(received)
}

func (s *Session) canRewindLocked(received uint64) error {
	if received < s.out.acked || received > s.out.sent {
		return &RejectedError{Code: rejectOffset, Reason: "the position is not between what was acknowledged and what was sent"}
	}
	return nil
}

// rewindLocked lets a new carrier begin at position received.
func (s *Session) rewindLocked(received uint64) error {
	o := &s.out
	if err := s.canRewindLocked(received); err != nil {
		return err
	}
	o.acked = received
	o.next = nil
	s.trimLocked()
	o.next = o.head
	o.unsent = 0
	for c := o.head; c != nil; c = c.next {
		o.unsent += c.len()
	}
	if o.pend != nil {
		o.unsent += o.pend.len()
	}
	if c := o.head; c != nil && c.seq < received {
		skip := int(received - c.seq)
		c.seq = received
		c.off += skip
		o.unsent -= skip
	}
	o.sent = received
	return nil
}

// freeAllLocked gives all memory back when the session has ended.
func (s *Session) freeAllLocked() {
	o := &s.out
	for o.spaceq.pop() != nil { // each stream is woken by its failure
	}
	for c := o.head; c != nil; {
		next := c.next
		s.freeChunkLocked(c)
		c = next
	}
	if o.pend != nil {
		s.freeChunkLocked(o.pend)
	}
	for st := o.bulk.pop(); st != nil; st = o.bulk.pop() {
		s.freeChunkLocked(st.takeReadyLocked())
	}
	o.head, o.tail, o.next, o.pend, o.unsent = nil, nil, nil, nil, 0
}
