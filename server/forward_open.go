package server

import (
	"errors"
	"maps"
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

// hold counts an open forward in, which was dialled by a permit. It reports false
// if there is another one meanwhile, which does not allow it.
func (b *binder) hold(of *openForward, by permit) bool {
	b.mu.Lock()
	if b.open == nil {
		b.open = make(map[*openForward]struct{})
	}
	b.open[of] = struct{}{}
	now := b.permitLocked()
	b.mu.Unlock()
	if now == by || b.server.stillAllows(now, of) {
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

func (s *Server) stillAllows(now permit, of *openForward) bool {
	return s.forwards.dialer.Allows(of.target, of.out, now.all())
}

// errNoForwards says that agents were told that there are none.
var errNoForwards = errors.New("server: it was started without forwards, as its agents know")

// SetForward replaces Options.Forward, unless there were none at the start. Open
// streams to targets that are not allowed any more are reset.
func (s *Server) SetForward(rules []auth.ForwardRule) error {
	if !s.mayForward() {
		return errNoForwards
	}
	before := s.forwards.rules.Swap(&rules)
	if slices.Equal(*before, rules) {
		return nil
	}
	for _, b := range s.binders() {
		b.cutOpen("the server")
	}
	return nil
}

// mayForward reports whether the server was started with forwards.
func (s *Server) mayForward() bool { return len(s.opts.Forward) > 0 }

// cutForwards ends the open forwards that the present credential does not allow,
// if the one before it had other rules.
func (b *binder) cutForwards(before *auth.Identity) {
	b.mu.Lock()
	now := b.identity
	b.mu.Unlock()
	if before.Kind != now.Kind || !slices.Equal(before.Scope.Forward, now.Scope.Forward) {
		b.cutOpen("the credential")
	}
}

// cutOpen ends the open forwards that are not allowed now. who does not allow
// them is for the agent.
func (b *binder) cutOpen(who string) {
	b.mu.Lock()
	now := b.permitLocked()
	open := slices.Collect(maps.Keys(b.open))
	b.mu.Unlock()
	for _, of := range open {
		if !b.server.stillAllows(now, of) {
			b.info("forward cut, which is allowed no more", "target", of.target.String(), "subject", b.holder, "by", who)
			tunnel.Abort(of.in, tunnel.ResetCancelled, who+" does not allow this target any more")
		}
	}
}
