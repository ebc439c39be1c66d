package ingress

import (
	"net/netip"
	"strings"

	"adit/internal/http1"
)

// visitorAddr returns the address of whoever sent the request: that of the conn
// or, through trusted proxies, the one that they have forwarded.
func (v *visitor) visitorAddr() netip.Addr {
	if !v.trusted {
		return v.peer.Addr()
	}
	return v.h.forwardedAddr(v.peer.Addr(),
		string(v.ex.appendList(nil, http1.ForwardedFor)), string(v.ex.appendList(nil, http1.Forwarded)))
}

// forwardedAddr returns the last address that is not one of a trusted proxy:
// those before it are the word of somebody who is not trusted. It is the zero
// Addr if that cannot be told, also if X-Forwarded-For and Forwarded disagree:
// a proxy sets one of them, and passes the other on as the visitor sent it.
func (h *HTTP) forwardedAddr(peer netip.Addr, forwardedFor, forwarded string) netip.Addr {
	var found []netip.Addr
	for _, list := range [][]string{splitFor(forwardedFor), splitForwarded(forwarded)} {
		if len(list) == 0 {
			continue
		}
		a := peer
		for i := len(list) - 1; i >= 0 && a.IsValid() && h.trusts(a); i-- {
			a = parseNode(list[i])
		}
		found = append(found, a)
	}
	switch {
	case len(found) == 0:
		return peer // a proxy that speaks for itself
	case len(found) == 2 && found[0] != found[1]:
		return netip.Addr{}
	}
	return found[0]
}

// splitFor splits the value of X-Forwarded-For.
func splitFor(list string) (nodes []string) {
	for node := range strings.SplitSeq(list, ",") {
		if node = strings.Trim(node, " \t"); node != "" {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// splitForwarded returns the value of "for" of each element of Forwarded (RFC
// 7239, section 4), and "" for those without.
func splitForwarded(list string) (nodes []string) {
	for _, element := range http1.SplitQuoted(list, ',') {
		if strings.Trim(element, " \t") == "" {
			continue
		}
		node := ""
		for _, pair := range http1.SplitQuoted(element, ';') {
			name, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if strings.EqualFold(name, "for") {
				node = strings.Trim(value, `"`)
			}
		}
		nodes = append(nodes, node)
	}
	return nodes
}

// parseNode parses an address as proxies write it: with or without port, IPv6
// in brackets or not. It is the zero Addr for anything else.
func parseNode(s string) netip.Addr {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		s = strings.TrimSuffix(inner, "]")
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}
