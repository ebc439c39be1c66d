package session

import "time"

// Stats is what a session does, and has done so far.
type Stats struct {
	Attached bool // it has a carrier
	Streams  int  // open ones

	CarriersLost uint64
	Resumed      uint64 // carriers after the first
	Opened       uint64 // streams by this side
	Sent         uint64 // bytes, with the headers of frames, without those of carriers
	Received     uint64

	SendBuffered    int // bytes of memory
	ReceiveBuffered int
}

// Stats returns what the session does and has done.
func (s *Session) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{
		Attached:        s.link != nil,
		Streams:         len(s.streams),
		CarriersLost:    uint64(s.losses),
		Sent:            s.out.sent,
		Received:        s.in.off.Load(),
		SendBuffered:    s.out.held,
		ReceiveBuffered: int(s.in.held.Load()),
	}
	if s.attached > 0 {
		st.Resumed = uint64(s.attached - 1)
	}
	first := uint64(2)
	if s.dialler {
		first = 1
	}
	st.Opened = (s.nextID - first) / 2
	return st
}

const (
	// stallAfter is how long a carrier may leave what it was given unanswered
	// before it counts as stalled, and stallTrips in round trips.
	stallAfter = time.Second
	stallTrips = 4
)

// Load returns the number of open streams, and whether what is sent now would
// have to wait: there is no carrier, or it has not answered for some time.
func (s *Session) Load() (streams int, stalled bool) {
	now := sinceStart()
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.link
	if l == nil {
		return len(s.streams), true
	}
	patience := max(stallAfter, stallTrips*s.rtt)
	unanswered := s.out.acked < s.out.sent && now-l.progress > patience
	heard := time.Duration(l.lastRecv.Load())
	silent := l.pinged && now-heard > s.opts.ping(s.dialler)+patience
	return len(s.streams), unanswered || silent
}

// AcceptorStats is what the sessions of an Acceptor do, and have done so far
// together with those that have ended. Stats.Attached does not count.
type AcceptorStats struct {
	Stats
	Sessions int    // that live
	Carried  int    // of these, those with a carrier
	Started  uint64 // sessions so far

	SendLimit    int // bytes of memory that one session may buffer
	ReceiveLimit int
}

// add adds what another session has done.
func (st *Stats) add(o Stats) {
	st.CarriersLost += o.CarriersLost
	st.Resumed += o.Resumed
	st.Opened += o.Opened
	st.Sent += o.Sent
	st.Received += o.Received
}

// Stats returns what the sessions do and have done.
func (a *Acceptor) Stats() AcceptorStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := AcceptorStats{Stats: a.ended, Sessions: len(a.sessions), Started: a.started, SendLimit: a.opts.SendBuffer, ReceiveLimit: a.opts.ReceiveBuffer}
	for _, s := range a.sessions {
		st := s.Stats()
		all.add(st)
		if st.Attached {
			all.Carried++
		}
		all.Streams += st.Streams
		all.SendBuffered += st.SendBuffered
		all.ReceiveBuffered += st.ReceiveBuffered
	}
	return all
}
