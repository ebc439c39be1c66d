package server

import (
	"net"
	"slices"

	"adit/auth"
	"adit/tunnel"
)

// An openForward is a stream of an agent that is connected to its target.
type openForward struct {
	target  tunnel.Target
	in, out net.Conn
}

// hold counts an open forward in, which was dialled for id. It reports false if
// the agent has another credential meanwhile, which does not allow it.
func (b *binder) hold(of *openForward, id *auth.Identity) bool {
	b.mu.Lock()
	if b.open == nil {
		b.open = make(map[*openForward]struct{})
	}
	b.open[of] = struct{}{}
	now := b.identity
	b.mu.Unlock()
	if now == id || b.server.stillAllows(now, of) {
		return true
	}
	b.let(of)
	return false
}

// let is the end of hold.
func (b *binder) let(of *openForward) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, of)
}

func (s *Server) stillAllows(id *auth.Identity, of *openForward) bool {
	return s.forwards.dialer.Allows(of.target, of.out, s.rulesFor(id))
}

// cutForwards ends the open forwards that the present credential does not allow,
// if the one before it had other rules.
func (b *binder) cutForwards(before *auth.Identity) {
	b.mu.Lock()
	now := b.identity
	var open []*openForward
	if before.Kind != now.Kind || !slices.Equal(before.Scope.Forward, now.Scope.Forward) {
		for of := range b.open {
			open = append(open, of)
		}
	}
	b.mu.Unlock()
	for _, of := range open {
		if !b.server.stillAllows(now, of) {
			b.info("forward cut, which the credential allows no more", "target", of.target.String(), "subject", b.holder)
			tunnel.Abort(of.in, tunnel.ResetCancelled, "the credential does not allow this target any more")
		}
	}
}
