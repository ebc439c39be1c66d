package main

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"adit/agent"
	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/screen"
)

const (
	keptRequests = 50
	keptLogs     = 10
	waitLogged   = 5 * time.Minute // for which a message is kept
)

// A board is what is known of the agents of this process, for whoever shows it.
// Its methods are safe for concurrent use.
type board struct {
	server  string // constant once agents have joined, as is wake
	started time.Time
	wake    func() // is called after each change, without the lock

	fresh chan struct{} // cap 1; filled when there are other tunnels

	mu         sync.Mutex // guards the fields below
	agents     []*seat
	health     map[*agent.Upstream]health
	notes      []string
	open       map[uint64]bool // streams
	streams    uint64          // that were opened
	refused    uint64          // streams for which the upstream was not reached
	received   uint64          // bytes from visitors, of streams that have ended
	sent       uint64          // and to them
	requests   uint64
	reconnects int
	latest     []entry // requests and, for what is not HTTP, streams; oldest first
	logs       []screen.Log
	ending     screen.Phase // Stopping or Stopped; empty before that
}

// A seat is one agent on a board.
type seat struct {
	tunnels   []agent.Tunnel
	bound     []dialect.Bound // of tunnels; nil until it was connected
	errs      []error         // of tunnels
	phase     screen.Phase
	since     time.Time // when the phase began
	err       error
	retry     time.Time
	roundTrip time.Duration
	carrier   native.Carrier

	connections int // that are up, of
	wanted      int // if that is more than one
}

type health struct {
	state   screen.Health
	problem string
	doubt   bool // it was so, and may have changed
}

// An entry is a line of the list of requests, with what tells it apart.
type entry struct {
	id uint64
	screen.Request
}

func newBoard() *board {
	return &board{
		started: time.Now(),
		wake:    func() {},
		fresh:   make(chan struct{}, 1),
		health:  make(map[*agent.Upstream]health),
		open:    make(map[uint64]bool),
	}
}

// change runs f with the lock held.
func (b *board) change(f func()) {
	b.mu.Lock()
	f()
	b.mu.Unlock()
	b.wake()
}

// join adds an agent with these options, which from then on tell b of what
// happens; requests says whether of each HTTP request too. What OnState was
// before is called as well. leave takes the agent away again.
func (b *board) join(opts *agent.Options, requests bool) (leave func()) {
	s := &seat{tunnels: opts.Tunnels, phase: screen.Connecting, since: time.Now()}
	if opts.Connections > 1 {
		s.wanted = opts.Connections
	}
	b.change(func() { b.agents = append(b.agents, s) })
	b.refresh()
	also := opts.OnState
	opts.OnState = func(st agent.State) {
		if also != nil {
			also(st)
		}
		b.change(func() { b.stateLocked(s, st) })
		if st.Phase == agent.Connected {
			b.refresh()
		}
	}
	opts.OnCarrier = func(c native.Carrier) { b.change(func() { s.carrier = c }) }
	opts.OnRoundTrip = func(d time.Duration) { b.change(func() { s.roundTrip = d }) }
	opts.OnStream = func(st agent.Stream) { b.change(func() { b.streamLocked(st) }) }
	if requests {
		opts.OnRequest = func(r agent.Request) { b.change(func() { b.requestLocked(r) }) }
	}
	return func() {
		b.change(func() {
			b.agents = slices.DeleteFunc(b.agents, func(o *seat) bool { return o == s })
			b.forgetLocked()
		})
	}
}

func (b *board) refresh() {
	select {
	case b.fresh <- struct{}{}:
	default:
	}
}

func (b *board) stateLocked(s *seat, st agent.State) {
	before := s.phase
	s.err, s.retry, s.connections = st.Err, time.Time{}, st.Connections
	if st.Wait > 0 {
		s.retry = time.Now().Add(st.Wait)
	}
	switch st.Phase {
	case agent.Connecting:
		s.phase = screen.Connecting
	case agent.Connected:
		if before != screen.Connected && s.bound != nil {
			b.reconnects++
		}
		s.phase = screen.Connected
		s.tunnels, s.bound, s.errs = st.Tunnels, st.Bound, st.Errs
		b.forgetLocked()
	case agent.Refused:
		s.phase = screen.Refused
	case agent.Reconnecting:
		s.phase = screen.Reconnecting
		if s.bound == nil {
			s.phase = screen.Waiting
		}
	}
	if s.phase != before {
		s.since = time.Now()
	}
}

// forgetLocked forgets upstreams that no tunnel leads to any more.
func (b *board) forgetLocked() {
	used := make(map[*agent.Upstream]bool)
	for _, s := range b.agents {
		for _, t := range s.tunnels {
			used[t.Upstream] = true
		}
	}
	maps.DeleteFunc(b.health, func(u *agent.Upstream, _ health) bool { return !used[u] })
}

func (b *board) streamLocked(s agent.Stream) {
	switch {
	case s.Refused:
		b.refused++
		b.health[s.Upstream] = health{state: screen.Down, problem: cause(s.Err)}
		return
	case s.Done:
		delete(b.open, s.ID)
		b.received += uint64(s.Received)
		b.sent += uint64(s.Sent)
	default:
		b.open[s.ID] = true
		b.streams++
	}
	h := b.health[s.Upstream]
	if s.Reached && !s.Done {
		h = health{state: screen.Up}
	} else {
		h.doubt = true // one that stops ends its conns
	}
	b.health[s.Upstream] = h
	if s.Kind == dialect.HTTP {
		return
	}
	visitor := "a visitor"
	if s.Visitor.IsValid() {
		visitor = s.Visitor.String()
	}
	b.entryLocked(entry{s.ID, screen.Request{
		Time: s.Begin, Tunnel: string(s.Tunnel), Method: strings.ToUpper(string(s.Kind)), Target: visitor, Conn: true,
		Duration: s.Duration, Sent: s.Sent, Done: s.Done, Broken: s.Done && s.Err != nil,
	}}, !s.Done)
}

func (b *board) requestLocked(r agent.Request) {
	first := r.Status == 0 && !r.Done
	if first {
		b.requests++
	}
	b.entryLocked(entry{r.ID, screen.Request{
		Time: r.Begin, Tunnel: string(r.Tunnel), Method: r.Method, Target: r.Target, Status: r.Status,
		Duration: r.Duration, Sent: r.Sent, Done: r.Done, Broken: r.Broken, Left: r.Left,
	}}, first)
}

// entryLocked adds e, or puts it in the place of what was known of it.
func (b *board) entryLocked(e entry, first bool) {
	if !first {
		for i := range slices.Backward(b.latest) {
			if b.latest[i].id == e.id && b.latest[i].Conn == e.Conn {
				b.latest[i] = e
				return
			}
		}
		return
	}
	if len(b.latest) == 2*keptRequests { // not moved each time
		b.latest = slices.Delete(b.latest, 0, keptRequests)
	}
	b.latest = append(b.latest, e)
}

// log adds a message.
func (b *board) log(l screen.Log) {
	b.change(func() {
		if n := len(b.logs); n > 0 && b.logs[n-1].Text == l.Text && b.logs[n-1].Level == l.Level {
			b.logs[n-1].Count++
			b.logs[n-1].Time = l.Time
			return
		}
		if len(b.logs) == keptLogs {
			b.logs = slices.Delete(b.logs, 0, 1)
		}
		l.Count = 1
		b.logs = append(b.logs, l)
	})
}

// note adds something that a person should know.
func (b *board) note(text string) { b.change(func() { b.notes = append(b.notes, text) }) }

// end says that the agents are about to stop, or have.
func (b *board) end(p screen.Phase) {
	b.change(func() {
		if b.ending != screen.Stopped {
			b.ending = p
		}
	})
}

// view is what a screen shows.
func (b *board) view() screen.View {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	v := screen.View{
		Now: now, Server: b.server, Phase: screen.Connecting,
		Streams:    screen.Streams{Open: len(b.open), Total: b.streams},
		Requested:  b.requests,
		Reconnects: b.reconnects,
		Notes:      slices.Clone(b.notes),
	}
	if s := b.worstLocked(); s != nil {
		v.Phase, v.Retry, v.RoundTrip, v.Carrier = s.phase, s.retry, s.roundTrip, string(s.carrier)
		if s.err != nil {
			v.Reason = reason(s.err)
		}
	}
	if b.ending != "" {
		v.Phase, v.Reason = b.ending, ""
	}
	for _, s := range b.agents {
		for i := range s.tunnels {
			v.Tunnels = append(v.Tunnels, b.tunnelLocked(s, i))
		}
	}
	for _, e := range b.latest[max(0, len(b.latest)-keptRequests):] {
		v.Requests = append(v.Requests, e.Request)
	}
	for _, l := range b.logs {
		if now.Sub(l.Time) < waitLogged {
			v.Logs = append(v.Logs, l)
		}
	}
	return v
}

// worstLocked returns the agent that a person has to know of most.
func (b *board) worstLocked() *seat {
	badness := func(s *seat) int {
		return slices.Index([]screen.Phase{screen.Connected, screen.Connecting, screen.Waiting, screen.Reconnecting, screen.Refused}, s.phase)
	}
	if len(b.agents) == 0 {
		return nil
	}
	return slices.MaxFunc(b.agents, func(s, t *seat) int { return cmp.Compare(badness(s), badness(t)) })
}

func (b *board) tunnelLocked(s *seat, i int) screen.Tunnel {
	t := s.tunnels[i]
	h := b.health[t.Upstream]
	out := screen.Tunnel{Name: string(t.ID), Upstream: t.Upstream.String(), Health: h.state, Problem: h.problem}
	if t.Upstream.InProcess() {
		out.Health = screen.Unknown // it goes without saying
	}
	if i < len(s.bound) {
		out.URLs = s.bound[i].URLs
	}
	if i < len(s.errs) && s.errs[i] != nil {
		out.Health, out.Problem = screen.Unknown, "refused: "+reason(s.errs[i])
	}
	return out
}
