package server

import (
	"sync/atomic"

	"adit/tunnel"
)

// ForwardStats is about the streams that agents have opened to targets.
type ForwardStats struct {
	Open      int // with those that are being connected
	Max       int
	Connected map[string]uint64 // by network
	Refused   map[string]uint64 // by code of docs/errors.md
	Sent      int64             // bytes to targets, of streams that have ended
	Received  int64             // bytes from them
}

// What forwards are counted by.
var (
	forwardNetworks = [...]tunnel.Network{tunnel.TCP, tunnel.UDP, tunnel.Unix, tunnel.Agent}
	forwardRefusals = [...]tunnel.RefuseCode{
		tunnel.RefuseInternal, tunnel.RefuseUnknownService, tunnel.RefuseUpstreamRefused, tunnel.RefuseUpstreamTimeout,
		tunnel.RefuseForbidden, tunnel.RefuseBusy, tunnel.RefuseDraining, tunnel.RefuseUnknownHost, tunnel.RefuseUnreachable,
	}
)

// forwardCounts counts what has become of forwards. It is safe for concurrent
// use.
type forwardCounts struct {
	connected      [len(forwardNetworks)]atomic.Uint64
	refused        [len(forwardRefusals)]atomic.Uint64
	sent, received atomic.Int64
}

func (c *forwardCounts) connect(n tunnel.Network) {
	if n == tunnel.AgentUDP {
		n = tunnel.Agent
	}
	for i, known := range forwardNetworks {
		if n == known {
			c.connected[i].Add(1)
		}
	}
}

// refuse counts a refusal; what another agent says in codes of its own is an
// internal one.
func (c *forwardCounts) refuse(code tunnel.RefuseCode) {
	for i, known := range forwardRefusals {
		if code == known {
			c.refused[i].Add(1)
			return
		}
	}
	c.refused[0].Add(1)
}

func (c *forwardCounts) move(sent, received int64) {
	c.sent.Add(sent)
	c.received.Add(received)
}

// stats returns what the forwards do and have done.
func (f *forwards) stats() ForwardStats {
	f.mu.Lock()
	open := f.open
	f.mu.Unlock()
	c := &f.done
	st := ForwardStats{
		Open: open, Max: f.max, Sent: c.sent.Load(), Received: c.received.Load(),
		Connected: make(map[string]uint64, len(forwardNetworks)), Refused: make(map[string]uint64, len(forwardRefusals)),
	}
	for i, n := range forwardNetworks {
		st.Connected[string(n)] = c.connected[i].Load()
	}
	for i, code := range forwardRefusals {
		st.Refused[code.String()] = c.refused[i].Load()
	}
	return st
}
