package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// ParsePrefix parses an address such as "10.0.0.1" or a network such as
// "10.0.0.0/8" or "2001:db8::/32".
func ParsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, aerr := netip.ParseAddr(s)
		if aerr != nil {
			return netip.Prefix{}, fmt.Errorf("%.60q: want an address such as 10.0.0.1 or a network such as 10.0.0.0/8", s)
		}
		if a.Zone() != "" { // a prefix would drop it
			return netip.Prefix{}, fmt.Errorf("%.60q: an address with a zone means something on one machine only; leave out %%%s", s, a.Zone())
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	return p, checkPrefix(p)
}

func checkPrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return fmt.Errorf("%q: want an address or a network such as 10.0.0.0/8", p)
	case p.Addr().Is4In6():
		return fmt.Errorf("%q: write it as the IPv4 address that it is", p)
	case p.Masked() != p:
		return fmt.Errorf("%q has bits set behind the first %d: did you mean %s?", p, p.Bits(), p.Masked())
	}
	return nil
}

func checkPrefixes(field string, list []netip.Prefix) error {
	if list != nil && len(list) == 0 {
		return fmt.Errorf("%s is empty: leave it out, or say whom it is about", field)
	}
	if len(list) > maxPrefixes {
		return fmt.Errorf("%s has %d networks: at most %d are allowed", field, len(list), maxPrefixes)
	}
	for _, p := range list {
		if err := checkPrefix(p); err != nil {
			return fmt.Errorf("%s %w", field, err)
		}
	}
	return nil
}

// A prefixSet tells whether one of many networks holds an address, in a time
// that depends on how many lengths of prefixes there are. Nil is the empty set.
type prefixSet struct {
	bits4, bits6 []int // the lengths
	prefixes     map[netip.Prefix]struct{}
}

func newPrefixSet(list []netip.Prefix) *prefixSet {
	if len(list) == 0 {
		return nil
	}
	s := &prefixSet{prefixes: make(map[netip.Prefix]struct{}, len(list))}
	for _, p := range list {
		s.prefixes[p] = struct{}{}
		bits := &s.bits6
		if p.Addr().Is4() {
			bits = &s.bits4
		}
		if !slices.Contains(*bits, p.Bits()) {
			*bits = append(*bits, p.Bits())
		}
	}
	return s
}

// contains reports whether a, which is valid and unmapped, is in the set.
func (s *prefixSet) contains(a netip.Addr) bool {
	if s == nil {
		return false
	}
	bits := s.bits6
	if a.Is4() {
		bits = s.bits4
	}
	for _, n := range bits {
		if p, err := a.Prefix(n); err == nil {
			if _, ok := s.prefixes[p]; ok {
				return true
			}
		}
	}
	return false
}

// plain returns a as rules compare it: IPv4 as such, and without zone.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
