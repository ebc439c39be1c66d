package session

import "time"

// end ends the session at once. Only the first call does anything.
func (s *Session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	l := s.link
	s.link = nil
	if s.lost != nil && l != nil {
		close(s.lost)
	}
	if s.expiry != nil {
		s.expiry.Stop()
	}
	if s.in.timer != nil {
		s.in.timer.Stop()
	}
	streams := s.streams
	s.streams = nil
	s.acceptq = nil
	s.opts.Budget.add(-s.budgetUsed)
	s.budgetUsed = 0
	if s.calls.cancel != nil {
		s.calls.cancel()
	}
	s.freeAllLocked()
	for _, st := range streams {
		st.failLocked(err)
	}
	s.cond.Broadcast()
	s.mu.Unlock()

	for _, st := range streams {
		st.failRead(err, false) // what has arrived can still be read
	}
	if l != nil {
		l.timer.Stop()
		l.conn.Close()
	}
	close(s.done)
	if s.onEnd != nil {
		s.onEnd()
	}
	s.notifyChange()
}

// A closing is the CLOSE that is to be sent, behind what is queued if there is
// time for that.
type closing struct {
	record *ClosedError // nil until the session is told to close
	late   bool         // it does not wait for what is queued any more
	sent   bool
}

// closeWith sends what is queued and then CLOSE, if there is a carrier, for a
// grace period at most; then the session has ended with err.
func (s *Session) closeWith(why *ClosedError, err error) {
	s.mu.Lock()
	if s.err != nil || s.reasons.record != nil {
		for s.err == nil {
			s.cond.Wait() // for the one who closes
		}
		s.mu.Unlock()
		return
	}
	s.reasons.record = why
	if l := s.link; l != nil {
		s.flushUnlock()
		s.mu.Lock()
		s.waitClosedLocked(l, closeGrace)
		if s.link == l && !s.reasons.sent {
			s.reasons.late = true // CLOSE now, whatever else is queued
			s.waitClosedLocked(l, closeGrace/4)
		}
	}
	s.mu.Unlock()
	s.end(err)
}

// waitClosedLocked waits until CLOSE has been written to l, l is lost, or limit
// has passed.
func (s *Session) waitClosedLocked(l *link, limit time.Duration) {
	expired := false
	t := time.AfterFunc(limit, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		expired = true
		s.cond.Broadcast()
	})
	defer t.Stop()
	for s.link == l && !l.mute && (!s.reasons.sent || s.out.writing) && !expired {
		s.cond.Wait()
	}
}

// Close ends the session on both sides with CLOSE 0, after what is queued has
// been sent or a second has passed. What a stream has received can still be
// read. It returns when all goroutines of the
// session have ended. Calls after the first wait for it and return nil.
func (s *Session) Close() error { return s.CloseWith(CloseDone, "") }

// CloseWith is Close with a code and a reason, which the other side is told.
func (s *Session) CloseWith(code uint16, reason string) error {
	why := &ClosedError{Code: code, Reason: cleanReason(reason)}
	s.closeWith(why, why)
	s.mu.Lock()
	for s.out.writing || s.readers > 0 || s.calls.serving > 0 {
		s.cond.Wait()
	}
	s.mu.Unlock()
	return nil
}

// Drain tells the other side to open no more streams; those that are open go
// on, and so may Open on this side. It does not wait.
func (s *Session) Drain(reason string) {
	s.mu.Lock()
	if s.err != nil || s.draining {
		s.mu.Unlock()
		return
	}
	s.draining = true
	s.appendCodelessLocked(frameDrain, 0, cleanReason(reason))
	s.flushUnlock()
}

// Draining reports whether the other side has asked for no more streams.
func (s *Session) Draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peerDraining
}
