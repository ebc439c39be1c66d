package agent

import (
	"net"
	"sync"

	"adit/tunnel"
)

// DefaultBacklog is how many streams wait for a Listener's Accept if nothing
// else is said.
const DefaultBacklog = 1024

// A Listener is an upstream inside this program: it accepts the streams of the
// tunnel whose upstream it is, so that a server of package net/http needs no
// port.
//
//	ln := agent.NewListener("folder ./public", 0)
//	tunnel.Upstream = ln.Upstream()
//	go http.Serve(ln, handler)
//
// Its methods are safe for concurrent use. It lives apart from the agent's
// sessions: it goes on when one ends, and whoever made it closes it.
type Listener struct {
	up      *Upstream
	backlog chan tunnel.Incoming // never closed
	closed  chan struct{}

	mu   sync.Mutex // guards over, and is held when something is put in backlog
	over bool
}

var _ net.Listener = (*Listener)(nil)

// NewListener returns a listener. Its name is for logs, and stands for the
// upstream where agents are told apart (Options.Instance). At most backlog
// streams wait for Accept, 0 means DefaultBacklog; one more is refused with
// tunnel.RefuseBusy, of which an HTTP visitor sees a 503.
func NewListener(name string, backlog int) *Listener {
	if backlog <= 0 {
		backlog = DefaultBacklog
	}
	l := &Listener{backlog: make(chan tunnel.Incoming, backlog), closed: make(chan struct{})}
	l.up = &Upstream{addr: name, ln: l}
	return l
}

// Upstream returns the upstream that leads here. It may serve several tunnels.
func (l *Listener) Upstream() *Upstream { return l.up }

// deliver takes in a stream, or refuses it. It does not wait for Accept.
func (l *Listener) deliver(in tunnel.Incoming) {
	l.mu.Lock()
	over, full := l.over, false
	if !over {
		select {
		case l.backlog <- in:
		default:
			full = true
		}
	}
	l.mu.Unlock()
	switch {
	case over:
		refuseClosed(in)
	case full:
		in.Refuse(tunnel.RefuseBusy, "the program behind this name has as many visitors waiting as it takes")
	}
}

func refuseClosed(in tunnel.Incoming) {
	in.Refuse(tunnel.RefuseDraining, "the program behind this name takes no more visitors")
}

// Accept returns the next stream, a *Conn, which the caller closes. After Close
// its error wraps net.ErrClosed; it has no other.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		select {
		case <-l.closed: // also if there is something in the backlog yet
			return nil, l.errClosed()
		default:
		}
		select {
		case in := <-l.backlog:
			if in.Accept() != nil { // the visitor has left, or the session has ended
				in.Close()
				continue
			}
			return &Conn{in, l}, nil
		case <-l.closed:
			return nil, l.errClosed()
		}
	}
}

func (l *Listener) errClosed() error {
	return &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: net.ErrClosed}
}

// Close ends Accept and refuses the streams that wait for it and those that
// come. What was accepted stays open. Calls after the first return nil.
func (l *Listener) Close() error {
	l.mu.Lock()
	first := !l.over
	l.over = true
	l.mu.Unlock()
	if !first {
		return nil
	}
	close(l.closed)
	for {
		select {
		case in := <-l.backlog:
			refuseClosed(in)
		default:
			return nil
		}
	}
}

// Addr returns an address of network "adit" that is the listener's name.
func (l *Listener) Addr() net.Addr { return listenerAddr(l.up.addr) }

type listenerAddr string

func (listenerAddr) Network() string  { return "adit" }
func (a listenerAddr) String() string { return string(a) }
