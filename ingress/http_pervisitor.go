package ingress

import (
	"net/http"
	"net/netip"
	"strings"
)

// This file is about streams of one visitor each; see Target.PerVisitor.

// visitorAddrPort is visitorAddr with the port, which is 0 behind trusted
// proxies. It is the zero AddrPort if the address is not known.
func (v *visitor) visitorAddrPort() netip.AddrPort {
	if !v.trusted {
		return v.peer
	}
	return withoutPort(v.visitorAddr())
}

func withoutPort(a netip.Addr) netip.AddrPort {
	if !a.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, 0)
}

// keep keeps a stream for another request.
func (v *visitor) keep(s *stream) {
	s.pool.put(s, v.h.now())
	if s.owner.IsValid() && s.owner == v.peer {
		v.owns = s.pool
	}
}

// dropOwned closes the stream that idles for the visitor, who has left.
func (v *visitor) dropOwned() {
	if v.owns == nil {
		return
	}
	if s := v.owns.take(v.peer); s != nil {
		s.close()
	}
}

// upstreamHost stands for the upstream in URLs that no upstream sees: a
// transport shares its streams between requests whose URLs have one host.
const upstreamHost = "upstream"

// hostFor is what stands there for streams of one visitor. If it is not known
// they are shared.
func hostFor(visitor netip.AddrPort) string {
	if !visitor.IsValid() {
		return upstreamHost
	}
	return visitor.String()
}

// visitorIn is the opposite of hostFor, for an address that a transport dials.
func visitorIn(addr string) netip.AddrPort {
	a, _ := netip.ParseAddrPort(addr) // fails for upstreamHost
	return a
}

// visitorOf is visitorAddrPort for a request that package net/http has parsed.
func (f *fallback) visitorOf(r *http.Request) netip.AddrPort {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	addr := peer.Addr().Unmap().WithZone("")
	if !f.h.trusts(addr) {
		if !addr.IsValid() {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(addr, peer.Port())
	}
	return withoutPort(f.h.forwardedAddr(addr, strings.Join(r.Header.Values("X-Forwarded-For"), ","), strings.Join(r.Header.Values("Forwarded"), ",")))
}
