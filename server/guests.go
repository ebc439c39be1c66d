package server

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"adit/ingress"
)

// Guests get visitors at the port of TLSOptions whom neither the server's own
// names nor those that agents have bound are for. They are safe for concurrent
// use.
type Guests interface {
	// Run serves until ctx ends. addr is where the port is; ready is called once
	// Guest may be asked.
	Run(ctx context.Context, addr netip.AddrPort, ready func()) error

	// Guest is that of ingress.Guests. exact says that the name itself was
	// given to the guest, and not a pattern that it matches.
	Guest(name string, local netip.AddrPort) (g *ingress.Guest, exact bool)
}

// guests are the server's Guests with the names that are not theirs left out:
// the server's own and all below its domain, those that are blocked, and those
// that an agent has bound while a pattern matches them. Who names nobody is for
// the server itself, if that has a certificate.
type guests struct{ s *Server }

func (g guests) Guest(_ context.Context, name string, local netip.AddrPort) *ingress.Guest {
	guest, exact := g.s.opts.TLS.Guests.Guest(name, local)
	switch {
	case guest == nil:
		return nil
	case name == "":
		if !guest.Rest {
			return nil
		}
		return guest
	case g.s.isOwn(name), g.s.blocks.has(name):
		return nil
	}
	if _, bound := g.s.table.Peek(name); bound && !exact {
		return nil
	}
	return guest
}

// isOwn reports whether a name is the server's own, or below its domain.
func (s *Server) isOwn(name string) bool {
	return slices.Contains(s.router().own, name) || strings.HasSuffix(name, "."+s.domain)
}

// runGuests runs the guests until ctx ends, and returns at once when they can be
// asked.
func (s *Server) runGuests(ctx context.Context, run func(func()), served chan<- error) {
	if s.opts.TLS.Guests == nil {
		return
	}
	ready := make(chan struct{})
	run(func() {
		err := s.opts.TLS.Guests.Run(ctx, s.TLSAddr(), func() { close(ready) })
		select {
		case <-ready:
		default:
			close(ready)
		}
		served <- err
	})
	<-ready
}
