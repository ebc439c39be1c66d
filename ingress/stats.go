package ingress

import (
	"errors"
	"sync/atomic"
	"time"

	"adit/tunnel"
)

// Buckets are the upper bounds of the buckets of a Histogram, in seconds.
var Buckets = [...]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}

// bounds are the same as durations.
var bounds = func() (d [len(Buckets)]time.Duration) {
	for i, s := range Buckets {
		d[i] = time.Duration(s * float64(time.Second))
	}
	return d
}()

// A Histogram counts durations.
type Histogram struct {
	Counts [len(Buckets)]uint64 // of the durations up to each bound
	Total  uint64
	Sum    float64 // seconds
}

// A histogram is a Histogram that is being filled. Each duration costs three
// atomic additions at the most.
type histogram struct {
	counts [len(Buckets)]atomic.Uint64 // up to the bound, and over the one before
	over   atomic.Uint64
	nanos  atomic.Int64
}

func (h *histogram) add(d time.Duration) {
	h.nanos.Add(int64(d))
	for i, b := range bounds {
		if d <= b {
			h.counts[i].Add(1)
			return
		}
	}
	h.over.Add(1)
}

func (h *histogram) snapshot() (s Histogram) {
	for i := range h.counts {
		s.Total += h.counts[i].Load()
		s.Counts[i] = s.Total
	}
	s.Total += h.over.Load()
	s.Sum = time.Duration(h.nanos.Load()).Seconds()
	return s
}

// StreamStats says how streams to agents were opened.
type StreamStats struct {
	Opened  uint64            // asked for; agents may have refused some
	Refused map[string]uint64 // by tunnel.RefuseCode, as in docs/errors.md
}

// streamCounters count that.
type streamCounters struct {
	opened  atomic.Uint64
	refused [tunnel.RefuseDraining + 1]atomic.Uint64 // codes that nobody knows count as 0
}

// refusal takes note of err if it is an agent's refusal.
func (c *streamCounters) refusal(err error) {
	no, ok := errors.AsType[*tunnel.RefusedError](err)
	if !ok {
		return
	}
	code := no.Code
	if int(code) >= len(c.refused) {
		code = 0
	}
	c.refused[code].Add(1)
}

func (c *streamCounters) snapshot() StreamStats {
	s := StreamStats{Opened: c.opened.Load(), Refused: make(map[string]uint64, len(c.refused))}
	for code := range c.refused {
		name := "other"
		if code > 0 {
			name = tunnel.RefuseCode(code).String()
		}
		s.Refused[name] = c.refused[code].Load()
	}
	return s
}

// HTTPStats is what an HTTP ingress does, and has done so far.
type HTTPStats struct {
	Visitors    int // conns
	MaxVisitors int
	Accepted    uint64 // conns
	TurnedAway  uint64 // conns over MaxVisitors

	InFlight  int               // requests, upgraded ones among them
	Upgraded  int               // conns that carry something else than HTTP after a request
	Requests  [6]uint64         // by the first digit of their status
	Problems  map[string]uint64 // by code of docs/errors.md, for all codes that there are
	Retries   uint64            // deliveries after the first of a request
	Received  uint64            // bytes of bodies, and of upgraded conns
	Sent      uint64
	Durations Histogram // without upgraded requests

	Streams        StreamStats
	IdleStreams    int
	MaxIdleStreams int // for each service of each tunnel
}

// httpCounters count for HTTPStats. A request costs a few atomic additions.
type httpCounters struct {
	accepted, turnedAway atomic.Uint64
	byPackage            atomic.Int64 // requests in flight that package net/http has
	upgraded             atomic.Int64
	requests             [6]atomic.Uint64
	problems             map[string]*atomic.Uint64 // constant
	retries              atomic.Uint64
	received, sent       atomic.Uint64
	durations            histogram
	streams              streamCounters
}

func (c *httpCounters) init() {
	c.problems = make(map[string]*atomic.Uint64, len(problems))
	for _, p := range problems {
		c.problems[p.code] = new(atomic.Uint64)
	}
}

// done takes note of a request that is over. d is negative for one whose
// duration says nothing.
func (c *httpCounters) done(status int, code string, received, sent int64, d time.Duration) {
	if class := status / 100; class > 0 && class < len(c.requests) {
		c.requests[class].Add(1)
	}
	if code != "" {
		if n := c.problems[code]; n != nil {
			n.Add(1)
		}
	}
	if received > 0 {
		c.received.Add(uint64(received))
	}
	if sent > 0 {
		c.sent.Add(uint64(sent))
	}
	if d >= 0 {
		c.durations.add(d)
	}
}

// Stats returns what the ingress does and has done.
func (h *HTTP) Stats() HTTPStats {
	c := &h.counters
	s := HTTPStats{
		MaxVisitors:    h.opts.MaxVisitors,
		Accepted:       c.accepted.Load(),
		TurnedAway:     c.turnedAway.Load(),
		InFlight:       int(c.byPackage.Load()),
		Upgraded:       int(c.upgraded.Load()),
		Problems:       make(map[string]uint64, len(c.problems)),
		Retries:        c.retries.Load(),
		Received:       c.received.Load(),
		Sent:           c.sent.Load(),
		Durations:      c.durations.snapshot(),
		Streams:        c.streams.snapshot(),
		IdleStreams:    h.streams.idle(),
		MaxIdleStreams: h.opts.MaxIdleStreams,
	}
	for i := range c.requests {
		s.Requests[i] = c.requests[i].Load()
	}
	for code, n := range c.problems {
		s.Problems[code] = n.Load()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Visitors = h.count
	for v := range h.visitors {
		if v.state.Load() == busy {
			s.InFlight++
		}
	}
	return s
}

// TCPStats is what a TCP ingress does, and has done so far.
type TCPStats struct {
	Ports              int // open ones
	MaxPorts           int
	Visitors           int
	MaxVisitors        int
	MaxVisitorsPerPort int
	Accepted           uint64
	TurnedAway         uint64            // over one of the limits
	Failed             map[string]uint64 // no stream was opened; by code of docs/errors.md
	Received           uint64            // bytes from visitors that have left
	Sent               uint64
	Streams            StreamStats
}

// tcpCounters count for TCPStats, and what is the same in others.
type tcpCounters struct {
	accepted, turnedAway atomic.Uint64
	failed               map[string]*atomic.Uint64 // constant
	received, sent       atomic.Uint64
	streams              streamCounters
}

func (c *tcpCounters) init() {
	c.failed = make(map[string]*atomic.Uint64, len(streamProblems))
	for _, p := range streamProblems {
		c.failed[p.code] = new(atomic.Uint64)
	}
}

// fail takes note of a visitor for whom there is no stream.
func (c *tcpCounters) fail(err error) {
	n := c.failed[explain(err).code]
	if n == nil {
		n = c.failed[probInternal.code]
	}
	n.Add(1)
	c.streams.refusal(err)
}

// failures returns how many had no stream, by code.
func (c *tcpCounters) failures() map[string]uint64 {
	all := make(map[string]uint64, len(c.failed))
	for code, n := range c.failed {
		all[code] = n.Load()
	}
	return all
}

// Stats returns what the ingress does and has done.
func (t *TCP) Stats() TCPStats {
	c := &t.counters
	s := TCPStats{
		MaxVisitors:        t.opts.MaxVisitors,
		MaxVisitorsPerPort: t.opts.MaxVisitorsPerPort,
		Accepted:           c.accepted.Load(),
		TurnedAway:         c.turnedAway.Load(),
		Failed:             c.failures(),
		Received:           c.received.Load(),
		Sent:               c.sent.Load(),
		Streams:            c.streams.snapshot(),
	}
	s.Ports, s.MaxPorts = t.ports.count(), t.given().total()
	s.Visitors = t.Visitors()
	return s
}

// UDPStats is what a UDP ingress does, and has done so far.
type UDPStats struct {
	Ports              int // open ones
	MaxPorts           int
	Visitors           int
	MaxVisitors        int
	MaxVisitorsPerPort int
	Accepted           uint64
	TurnedAway         uint64            // over MaxVisitors
	Failed             map[string]uint64 // no stream was opened; by code of docs/errors.md
	Received           uint64            // bytes from visitors that have left
	Sent               uint64
	DatagramsReceived  uint64 // from visitors, dropped ones among them
	DatagramsSent      uint64
	Dropped            uint64 // from visitors: there was no room, or it was no visitor
	Unsent             uint64 // to visitors: the system did not take them
	Untold             uint64 // visitors of which OnVisit was not told
	Streams            StreamStats
}

// udpCounters count for UDPStats.
type udpCounters struct {
	tcpCounters
	datagramsIn, datagramsOut, dropped, unsent, untold atomic.Uint64
}

// Stats returns what the ingress does and has done.
func (u *UDP) Stats() UDPStats {
	c := &u.counters
	return UDPStats{
		Ports:              u.ports.count(),
		MaxPorts:           u.given().total(),
		Visitors:           u.Visitors(),
		MaxVisitors:        u.opts.MaxVisitors,
		MaxVisitorsPerPort: u.opts.MaxVisitorsPerPort,
		Accepted:           c.accepted.Load(),
		TurnedAway:         c.turnedAway.Load(),
		Failed:             c.failures(),
		Received:           c.received.Load(),
		Sent:               c.sent.Load(),
		DatagramsReceived:  c.datagramsIn.Load(),
		DatagramsSent:      c.datagramsOut.Load(),
		Dropped:            c.dropped.Load(),
		Unsent:             c.unsent.Load(),
		Untold:             c.untold.Load(),
		Streams:            c.streams.snapshot(),
	}
}

// TLSStats is what a TLS ingress does, and has done so far.
type TLSStats struct {
	Handshakes    int // visitors that are in theirs
	MaxHandshakes int
	Visitors      int // whose TLS an upstream ends
	MaxVisitors   int
	Accepted      uint64 // conns
	TurnedAway    uint64 // over one of the limits
	Refused       uint64 // for what they sent first: no TLS, or malformed
	Unknown       uint64 // for the name that they asked for
	Broken        uint64 // handshakes with the ingress itself that failed
	Ended         uint64 // handshakes with the ingress itself that succeeded: HTTP has the visitor
	Passed        uint64 // to an upstream that ends TLS, if it can be reached

	// Of those whose TLS an upstream ends:

	Failed   map[string]uint64 // no stream was opened; by code of docs/errors.md
	Received uint64            // bytes from visitors that have left
	Sent     uint64
	Streams  StreamStats
}

// tlsCounters count for TLSStats.
type tlsCounters struct {
	tcpCounters
	refused, unknown, broken, ended, passedOn atomic.Uint64
}

// Stats returns what the ingress does and has done.
func (t *TLS) Stats() TLSStats {
	c := &t.counters
	s := TLSStats{
		MaxHandshakes: t.opts.MaxHandshakes,
		MaxVisitors:   t.opts.MaxVisitors,
		Accepted:      c.accepted.Load(),
		TurnedAway:    c.turnedAway.Load(),
		Refused:       c.refused.Load(),
		Unknown:       c.unknown.Load(),
		Broken:        c.broken.Load(),
		Ended:         c.ended.Load(),
		Passed:        c.passedOn.Load(),
		Failed:        c.failures(),
		Received:      c.received.Load(),
		Sent:          c.sent.Load(),
		Streams:       c.streams.snapshot(),
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Handshakes, s.Visitors = t.shaking.Len(), t.passed
	return s
}
