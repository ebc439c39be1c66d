package ingress

import (
	"context"

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
	// lower case without port or trailing dot, "/" and an ID, or ":" and a
	// TCP port in decimal.
	//
	// Route may wait for an agent that is away for a moment; ctx bounds the
	// wait. The error wraps ErrNoRoute, ErrOffline, ErrQueueFull,
	// ErrBlocked or ctx's error.
	Route(ctx context.Context, key string) (Target, error)
}

// What a Router's errors wrap. They are those of package tunnel, so that a
// router need not import its user.
var (
	ErrNoRoute   = tunnel.ErrNoRoute   // no such name, now or lately
	ErrOffline   = tunnel.ErrOffline   // the name's agent did not come back in time
	ErrQueueFull = tunnel.ErrQueueFull // too many visitors wait already
	ErrBlocked   = tunnel.ErrBlocked   // the operator has blocked it
)
