package requests

import (
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// A serverConn is the server's end of a conn.
type serverConn struct {
	core
	server *Server
	id     id
	keys   *keys
	kind   Kind
	frames atomic.Uint64 // that it has sealed

	// Guarded by core.mu.
	serving  int // requests
	seen     time.Time
	timer    *time.Timer // of idle, and after Close of gone
	counted  int         // bytes that the server counts for out
	ups      int         // bytes of requests that are being read
	polls    map[uint64]*poll
	waiting  []*poll // those without an answer, in the order of their numbers
	assigned uint64  // position behind what polls have been given
	least    uint64  // number below which all polls have been answered
	stream   uint64  // number of the newest stream
	over     bool    // nothing is left
	changed  chan struct{}
}

// A poll is a request for bytes, which may come several times.
type poll struct {
	number   uint64
	size     uint64
	here     int           // requests that wait for its answer
	ready    chan struct{} // closed when it has one
	from, to uint64
}

func (c *serverConn) nextFrame() uint64 { return c.frames.Add(1) }

// enter begins a request.
func (c *serverConn) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || c.serving >= maxServing {
		return false
	}
	c.serving++
	c.seen = time.Now()
	return true
}

func (c *serverConn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving--
	c.seen = time.Now()
}

// idle ends a conn whose dialler has gone.
func (c *serverConn) idle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	left := idleTimeout - time.Since(c.seen)
	if c.serving > 0 {
		left = idleTimeout
	}
	if left > 0 {
		c.timer.Reset(left)
		return
	}
	c.breakLocked(errIdle)
}

// Close ends the conn. What was written before still gets through, if the other
// side asks for it within some seconds.
func (c *serverConn) Close() error {
	c.mu.Lock()
	first := c.closeLocked()
	if first {
		c.timer.Stop()
		c.timer = time.AfterFunc(lingerFor, c.gone)
	}
	left := c.finite || c.err != nil // nobody is there to be told
	c.mu.Unlock()
	if first && left {
		c.gone()
	}
	return nil
}

// gone forgets the conn.
func (c *serverConn) gone() {
	c.server.remove(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	c.timer.Stop()
	c.out.trim(c.out.end)
	c.countLocked()
	c.stirLocked()
}

// countLocked tells the server how much memory is held.
func (c *serverConn) countLocked() {
	if d := c.out.held - c.counted; d != 0 {
		c.counted += d
		c.server.used.Add(int64(d))
	}
}

// fullLocked reports whether the server's budget keeps the conn from taking
// more.
func (c *serverConn) fullLocked() bool {
	return c.out.held > windowFloor && c.server.used.Load() >= c.server.memory
}

// stirLocked wakes all requests that wait for a change.
func (c *serverConn) stirLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// serveLocked gives what is there to those who ask.
func (c *serverConn) serveLocked() {
	c.countLocked()
	if c.kind == Stream {
		c.stirLocked()
		return
	}
	ended := c.closed || c.err != nil
	for len(c.waiting) > 0 && (c.assigned < c.out.end || ended) {
		c.assignLocked(c.waiting[0])
	}
}

// assignLocked answers a poll with what is there.
func (c *serverConn) assignLocked(p *poll) {
	if i := slices.Index(c.waiting, p); i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
	}
	p.from = c.assigned
	p.to = min(c.out.end, c.assigned+p.size)
	c.assigned = p.to
	close(p.ready)
}

// ackLocked takes note of what the other side has. A request that says too much
// is not from our dialler, or has a bug in it.
func (c *serverConn) ackLocked(received uint64) bool {
	if c.ackedLocked(received) != nil {
		return false
	}
	c.countLocked()
	return true
}

// serveEnd answers a request that says where the dialler's bytes end.
func (c *serverConn) serveEnd(w http.ResponseWriter, h *head) {
	c.mu.Lock()
	ok := h.position >= c.in.next && (!c.finite || c.fin == h.position) && c.ackLocked(h.received)
	if ok {
		c.finishedLocked(h.position)
	}
	closed := c.closed
	c.mu.Unlock()
	if !ok {
		refuse(w, http.StatusConflict, codeBad)
		return
	}
	w.WriteHeader(http.StatusNoContent)
	if closed {
		c.gone()
	}
}
