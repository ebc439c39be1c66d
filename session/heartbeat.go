package session

import "time"

const (
	// minTuneRTT is the round trip that window tuning assumes at least. Where
	// the path is faster a larger window does not carry more, but credit is
	// returned less often.
	minTuneRTT = 2 * time.Millisecond

	// On a path with a round trip below nearRTT no window grows beyond
	// nearWindow, in bytes: that is more than such a path holds, and what is
	// more than the caches hold costs time and gains nothing.
	nearRTT    = time.Millisecond
	nearWindow = 2 << 20

	// rttMaxAge is how old a measured round trip may be for tuning.
	rttMaxAge = 5 * time.Second
)

// heartbeatInLocked returns how long the link may be left alone.
func (s *Session) heartbeatInLocked(l *link, now time.Duration) time.Duration {
	silent := now - time.Duration(l.lastRecv.Load())
	next := s.opts.Dead - silent
	if s.out.acked < s.out.sent {
		next = min(next, s.opts.Dead-(now-l.progress))
	}
	if ping := s.opts.ping(s.dialler); ping > 0 && silent < ping {
		next = min(next, ping-silent)
	}
	return max(min(next, s.opts.Dead/4+time.Second), time.Millisecond)
}

// heartbeat asks a silent carrier for a sign of life, and gives up a dead one.
func (l *link) heartbeat() {
	s := l.s
	now := sinceStart()
	silent := now - time.Duration(l.lastRecv.Load())
	s.mu.Lock()
	if s.link != l || l.mute {
		s.mu.Unlock()
		return
	}
	unanswered := s.out.acked < s.out.sent && now-l.progress >= s.opts.Dead
	if silent >= s.opts.Dead || unanswered {
		s.mu.Unlock()
		l.drop(ErrDead)
		return
	}
	ping := s.opts.ping(s.dialler)
	if ping > 0 && silent >= ping && !l.pinged {
		l.ping = true
	}
	if silent > restAfter && !s.in.armed {
		s.in.timer = nil // an idle session keeps one timer
	}
	l.timer.Reset(s.heartbeatInLocked(l, now))
	s.flushUnlock()
}

// Probe asks the other side for a sign of life, if there is a carrier. It does
// not block.
func (s *Session) Probe() {
	s.mu.Lock()
	if l := s.link; l != nil && !l.mute {
		l.ping = true
	}
	s.flushUnlock()
}

// Heard returns when something came from the other side on the present carrier
// last, and the zero Time without one.
func (s *Session) Heard() time.Time {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l == nil {
		return time.Time{}
	}
	return start.Add(time.Duration(l.lastRecv.Load()))
}

// measuredLocked takes note of one round trip.
func (s *Session) measuredLocked(rtt time.Duration) {
	if rtt < 0 || rtt > time.Minute {
		return // not our token
	}
	s.rttAt = sinceStart()
	if s.rtt == 0 || rtt < s.rtt {
		s.rtt = max(rtt, 1)
		return
	}
	s.rtt += (rtt - s.rtt) / 8
}
