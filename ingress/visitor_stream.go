package ingress

import (
	"errors"
	"net"
	"sync"
	"time"

	"adit/internal/relay"
	"adit/tunnel"
)

// A visitorStream is where the stream is of a visitor whose bytes are relayed as
// they are, so that both can be ended from outside.
type visitorStream struct {
	mu      sync.Mutex // guards the fields below
	conn    net.Conn   // nil until it is open
	aborted bool
}

// abort ends the visitor by endVisitor, and then the stream: either may be what
// the relay waits for.
func (s *visitorStream) abort(endVisitor func()) {
	s.mu.Lock()
	s.aborted = true
	stream := s.conn
	s.mu.Unlock()
	endVisitor()
	if stream != nil {
		tunnel.Abort(stream, tunnel.ResetCancelled, "server closed")
	}
}

// attach gives the visitor its stream, unless it was aborted before.
func (s *visitorStream) attach(stream net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aborted {
		tunnel.Abort(stream, tunnel.ResetCancelled, "server closed")
		return net.ErrClosed
	}
	s.conn = stream
	return nil
}

// relay relays a visitor's conn to its stream until both are over, and counts
// what passed. late is the agent's refusal, if it came only then: see
// tunnel.EarlyOpener.
func (c *tcpCounters) relay(conn, stream net.Conn, idle time.Duration) (res relay.Result, late, err error) {
	res, err = relay.Relay(conn, stream, relay.Options{
		Idle: idle,
		Abort: func(c net.Conn, cause error) {
			tunnel.Abort(c, resetCode(cause), "visitor's connection ended early")
		},
	})
	c.received.Add(uint64(res.AtoB))
	c.sent.Add(uint64(res.BtoA))
	if no, ok := errors.AsType[*tunnel.RefusedError](err); ok {
		late = no
		c.fail(no)
	}
	return res, late, err
}
