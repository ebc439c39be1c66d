package ingress

import (
	"context"
	"net/netip"
	"time"

	"adit/policy"
	"adit/tunnel"
)

// A Target is where a visitor's bytes go.
type Target struct {
	Tunnel  tunnel.Tunnel
	Service string // of the tunnel's agent; empty is its default

	// ID is the name that the visitor was led by, of those that the agent
	// has; empty is the tunnel's own.
	ID tunnel.ID

	// TLS says that the upstream ends the visitors' TLS itself. Such a target
	// is for TLS alone: no other ingress may open a stream to it.
	TLS bool

	// HTTP2 says that the upstream speaks HTTP/2 from the first byte (RFC
	// 9113, section 3.3).
	HTTP2 bool

	// PerVisitor says that no stream may carry the requests of two visitors.
	// Each then has the address of its visitor; others have none, unless they
	// are upgraded.
	PerVisitor bool

	// Alive ends when the router has given the tunnel up for another one: it
	// is away or silent. What can be had elsewhere need not wait for it any
	// longer. It is nil if there is no other one.
	Alive context.Context

	// Policy decides whether the visitor may go there; nil lets everybody.
	// The ingress asks it before it opens a stream, and asks that of each
	// other target that it tries.
	Policy *policy.Guard
}

// id is the name that the visitor was led by.
func (t Target) id() tunnel.ID {
	if t.ID != "" {
		return t.ID
	}
	return t.Tunnel.ID()
}

// A Router finds the target for what a visitor asked for. It is safe for
// concurrent use.
type Router interface {
	// Route returns the target that key leads to. The key is a hostname in
	// lower case without port or trailing dot, "/" and an ID, ":" and a TCP
	// port in decimal, or ":", a UDP port and "/udp".
	//
	// Route may wait for an agent that is away for a moment; ctx bounds the
	// wait. The error wraps ErrNoRoute, ErrOffline, ErrQueueFull,
	// ErrBlocked or ctx's error.
	Route(ctx context.Context, key string) (Target, error)
}

// An Ask is what a choice among several targets may depend on.
type Ask struct {
	// Visitor is the address of whoever asks, as far as that is known: what
	// trusted proxies, or the PROXY protocol, say counts.
	Visitor netip.Addr

	// Tried are tunnels that have failed the visitor. It is good until the call
	// returns.
	Tried []tunnel.Tunnel
}

// A Chooser is a Router that wants to know who asks.
type Chooser interface {
	Router

	// RouteFor is Route for a visitor.
	RouteFor(ctx context.Context, key string, ask Ask) (Target, error)
}

// find asks a router for a target.
func find(ctx context.Context, r Router, key string, ask Ask) (Target, error) {
	if c, ok := r.(Chooser); ok {
		return c.RouteFor(ctx, key, ask)
	}
	return r.Route(ctx, key)
}

// givenUp reports whether the router has given the target up for another one.
func (t Target) givenUp() bool { return t.Alive != nil && t.Alive.Err() != nil }

// tries is how many targets are tried if there are others beside this one; max
// is how many if there are not.
func (t Target) tries(max int) int {
	if t.Alive != nil {
		return spareTries
	}
	return max
}

// spareTries bounds how many targets a visitor is led to one after the other.
const spareTries = 8

// whileAlive returns a context that ends when the target is given up, too.
// Callers call stop.
func (t Target) whileAlive(ctx context.Context, limit time.Duration) (_ context.Context, stop func()) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	if t.Alive == nil {
		return ctx, cancel
	}
	forget := context.AfterFunc(t.Alive, cancel)
	return ctx, func() { forget(); cancel() }
}

// What a Router's errors wrap. They are those of package tunnel, so that a
// router need not import its user.
var (
	ErrNoRoute   = tunnel.ErrNoRoute   // no such name, now or lately
	ErrOffline   = tunnel.ErrOffline   // the name's agent did not come back in time
	ErrQueueFull = tunnel.ErrQueueFull // too many visitors wait already
	ErrBlocked   = tunnel.ErrBlocked   // the operator has blocked it
)
