package ingress

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"adit/tunnel"
)

// quiescent is a stream that can tell whether it is open both ways with nothing
// to read. Between requests, a stream that is not has been ended by the
// upstream, or carries bytes that belong to no request.
type quiescent interface{ Quiet() bool }

// A oneRequest is a stream that is for one request alone, or a tunnel with
// such streams.
type oneRequest interface{ OneRequest() }

// A stream is a stream to an upstream's conn, which is kept for one request
// after another.
type stream struct {
	conn   net.Conn
	pool   *streamPool
	owner  netip.AddrPort // the only visitor whose requests it carries; zero if it may carry any
	since  time.Duration  // when it became idle, in HTTP.now's time
	reused bool           // it has carried a request before
	ended  atomic.Bool
}

// close ends the stream.
func (s *stream) close() {
	if !s.ended.Swap(true) {
		s.conn.Close()
	}
}

// reset ends the stream so that the upstream notices, in the middle of whatever
// it is doing.
func (s *stream) reset(code tunnel.ResetCode, reason string) {
	if s.ended.Swap(true) {
		return
	}
	if r, ok := s.conn.(tunnel.Resetter); ok {
		r.Reset(code, reason)
		return
	}
	s.conn.Close()
}

// usable reports whether an idle stream can carry a request. sure says that the
// request cannot be sent again.
func (s *stream) usable(now time.Duration, sure bool) bool {
	age := now - s.since
	if age > idleLimit || sure && age > unsureLimit {
		return false
	}
	if q, ok := s.conn.(quiescent); ok {
		return q.Quiet()
	}
	return age < unsureLimit
}

// A streamKey names what all streams of a pool lead to.
type streamKey struct {
	tunnel  tunnel.Tunnel
	service string
}

// streamPools has the idle streams of all tunnels.
type streamPools struct {
	max int // idle streams in each

	mu     sync.RWMutex // guards the fields below
	pools  map[streamKey]*streamPool
	closed bool
}

// pool returns the pool of a tunnel's service, or nil if it has none and create
// is not set, or none is to be made.
func (p *streamPools) pool(key streamKey, create bool) *streamPool {
	p.mu.RLock()
	sp := p.pools[key]
	p.mu.RUnlock()
	if sp != nil || !create {
		return sp
	}
	p.mu.Lock()
	if sp := p.pools[key]; sp != nil || p.closed {
		p.mu.Unlock()
		return sp
	}
	if p.pools == nil {
		p.pools = make(map[streamKey]*streamPool)
	}
	sp = &streamPool{max: p.max, done: key.tunnel.Done()}
	p.pools[key] = sp
	p.mu.Unlock()
	if a, ok := key.tunnel.(tunnel.Availability); ok {
		look := func() { sp.look(a) }
		a.OnAvailability(look)
		look() // it may have changed before
	}
	return sp
}

// sweep ends the streams that idle too long, and forgets tunnels that ended.
func (p *streamPools) sweep(now time.Duration) {
	p.mu.RLock()
	all := make(map[streamKey]*streamPool, len(p.pools))
	for k, sp := range p.pools {
		all[k] = sp
	}
	p.mu.RUnlock()
	for key, sp := range all {
		if ended(sp.done) {
			p.mu.Lock()
			delete(p.pools, key)
			p.mu.Unlock()
			sp.closeOlder(now, -1)
			continue
		}
		sp.closeOlder(now, idleLimit)
	}
}

// idle returns the number of idle streams.
func (p *streamPools) idle() (n int) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, sp := range p.pools {
		sp.mu.Lock()
		n += len(sp.idle) + len(sp.owned)
		sp.mu.Unlock()
	}
	return n
}

func (p *streamPools) close() {
	p.mu.Lock()
	all := p.pools
	p.pools, p.closed = nil, true
	p.mu.Unlock()
	for _, sp := range all {
		sp.shut()
	}
}

// A streamPool has the idle streams of one service, the last used on top.
type streamPool struct {
	max  int
	done <-chan struct{} // of the tunnel

	mu     sync.Mutex                 // guards the fields below
	idle   []*stream                  // by age, the oldest first
	owned  map[netip.AddrPort]*stream // idle ones of one visitor each
	away   bool                       // the tunnel is not available
	closed bool
}

// look sees whether the tunnel is available. If not, idle streams are ended: an
// agent that drains waits for them, and one that is away may stay away.
func (sp *streamPool) look(a tunnel.Availability) {
	sp.mu.Lock()
	var idle []*stream
	if sp.away = !a.Available(); sp.away {
		idle, sp.idle = sp.idle, nil
		for _, s := range sp.owned {
			idle = append(idle, s)
		}
		sp.owned = nil
	}
	sp.mu.Unlock()
	for _, s := range idle {
		s.close()
	}
}

// get returns an idle stream that can carry a request, or nil. If owner is not
// zero it is that visitor's own.
func (sp *streamPool) get(owner netip.AddrPort, now time.Duration, sure bool) *stream {
	if owner.IsValid() {
		s := sp.take(owner)
		if s != nil && !s.usable(now, sure) {
			s.close()
			return nil
		}
		return s
	}
	for {
		sp.mu.Lock()
		n := len(sp.idle)
		if n == 0 {
			sp.mu.Unlock()
			return nil
		}
		s := sp.idle[n-1]
		if sure && now-s.since > unsureLimit {
			sp.mu.Unlock() // those below are older; they serve others
			return nil
		}
		sp.idle[n-1] = nil
		sp.idle = sp.idle[:n-1]
		sp.mu.Unlock()
		if s.usable(now, sure) {
			return s
		}
		s.close()
	}
}

// take returns the idle stream of a visitor, which it then has no more, or nil.
func (sp *streamPool) take(owner netip.AddrPort) *stream {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	s := sp.owned[owner]
	delete(sp.owned, owner)
	return s
}

// put keeps s for another request, or closes it.
func (sp *streamPool) put(s *stream, now time.Duration) {
	if _, once := s.conn.(oneRequest); once {
		s.close()
		return
	}
	s.since, s.reused = now, true
	sp.mu.Lock()
	if sp.closed || sp.away || len(sp.idle)+len(sp.owned) >= sp.max || sp.owned[s.owner] != nil || ended(sp.done) {
		sp.mu.Unlock()
		s.close()
		return
	}
	if s.owner.IsValid() {
		if sp.owned == nil {
			sp.owned = make(map[netip.AddrPort]*stream)
		}
		sp.owned[s.owner] = s
	} else {
		sp.idle = append(sp.idle, s)
	}
	sp.mu.Unlock()
}

// closeOlder closes the streams that have idled longer than limit.
func (sp *streamPool) closeOlder(now, limit time.Duration) {
	sp.mu.Lock()
	n := 0
	for n < len(sp.idle) && now-sp.idle[n].since > limit {
		n++
	}
	old := append([]*stream(nil), sp.idle[:n]...)
	rest := copy(sp.idle, sp.idle[n:])
	clear(sp.idle[rest:])
	sp.idle = sp.idle[:rest]
	for owner, s := range sp.owned {
		if now-s.since > limit {
			old = append(old, s)
			delete(sp.owned, owner)
		}
	}
	sp.mu.Unlock()
	for _, s := range old {
		s.close()
	}
}

// shut closes the idle streams and those that are put from now on.
func (sp *streamPool) shut() {
	sp.mu.Lock()
	sp.closed = true
	sp.mu.Unlock()
	sp.closeOlder(0, -1<<62)
}

func ended(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}
