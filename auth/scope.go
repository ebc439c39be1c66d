package auth

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"adit/tunnel"
)

// A Scope is what an identity may do. The zero Scope allows nothing.
type Scope struct {
	IDs       []string      // patterns of IDs that may be bound: a literal, or with '*' for any run of characters
	Hostnames []string      // patterns of hostnames that may be bound beside those of IDs; see CheckHostPattern
	Ports     []PortRange   // public TCP ports that may be bound
	UDPPorts  []PortRange   // public UDP ports that may be bound
	Forward   []ForwardRule // what the server may dial for the holder
}

// Everything is the scope of a shared secret: every ID, every hostname and
// every port. It says nothing of forwards: how far those of the secret go is the
// server's own rule.
func Everything() Scope {
	return Scope{IDs: []string{"*"}, Hostnames: []string{anyHost}, Ports: []PortRange{everyPort}, UDPPorts: []PortRange{everyPort}}
}

// IsZero reports whether s allows nothing.
func (s Scope) IsZero() bool {
	return len(s.IDs) == 0 && len(s.Hostnames) == 0 && len(s.Ports) == 0 && len(s.UDPPorts) == 0 && len(s.Forward) == 0
}

// AllowsID reports whether id may be bound. No scope allows the empty ID.
func (s Scope) AllowsID(id tunnel.ID) bool {
	if id == "" {
		return false
	}
	for _, p := range s.IDs {
		if match(p, string(id)) {
			return true
		}
	}
	return false
}

// AllowsHostname reports whether the public hostname h may be bound. No scope
// allows what tunnel.CheckHostname refuses: an address, a pattern, or a name
// in another spelling than the one by which visitors are routed.
func (s Scope) AllowsHostname(h string) bool {
	if tunnel.CheckHostname(h) != nil {
		return false
	}
	for _, p := range s.Hostnames {
		if matchHost(p, h) {
			return true
		}
	}
	return false
}

// AllowsPort reports whether the public TCP port p may be bound. No scope
// allows port 0: whoever picks a port for an agent asks for each that it means
// to pick.
func (s Scope) AllowsPort(p uint16) bool { return containPort(s.Ports, p) }

// AllowsUDPPort is AllowsPort for public UDP ports.
func (s Scope) AllowsUDPPort(p uint16) bool { return containPort(s.UDPPorts, p) }

func containPort(ranges []PortRange, p uint16) bool {
	return p != 0 && slices.ContainsFunc(ranges, func(r PortRange) bool { return r.contains(p) })
}

// Check reports the first pattern, range or rule that is malformed.
func (s Scope) Check() error {
	for _, p := range s.IDs {
		if err := CheckPattern(p); err != nil {
			return err
		}
	}
	for _, p := range s.Hostnames {
		if err := CheckHostPattern(p); err != nil {
			return err
		}
	}
	for _, r := range slices.Concat(s.Ports, s.UDPPorts) {
		if err := r.check(); err != nil {
			return err
		}
	}
	for _, r := range s.Forward {
		if err := r.check(); err != nil {
			return err
		}
	}
	return nil
}

// maxPattern is the longest pattern, in bytes.
const maxPattern = 255

// CheckPattern checks a pattern of IDs: 1 to 255 visible ASCII characters, of
// which '*' stands for any run of characters, also an empty one, and each
// other for itself. The pattern "*" is allowed: it says what it does.
func CheckPattern(p string) error {
	if p == "" || len(p) > maxPattern {
		return fmt.Errorf("id pattern %.20q has %d bytes: it takes 1 to %d", p, len(p), maxPattern)
	}
	for i := range len(p) {
		if p[i] <= ' ' || p[i] > '~' {
			return fmt.Errorf("id pattern %q has %q at byte %d: only visible ASCII characters are allowed", p, p[i], i)
		}
	}
	return nil
}

// match reports whether pattern matches all of s. It takes time in the order
// of len(pattern)*len(s): on a mismatch only the last '*' is tried again.
func match(pattern, s string) bool {
	p, i := 0, 0
	star, from := -1, 0 // the last '*', and where in s the rest after it began
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// A PortRange is inclusive at both ends.
type PortRange struct{ First, Last uint16 }

// ParsePortRange parses a port such as "22" or a range such as "2000-2999",
// of ports from 1 to 65535.
func ParsePortRange(s string) (PortRange, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, err1 := parsePort(first)
	b, err2 := parsePort(last)
	r := PortRange{a, b}
	if err1 != nil || err2 != nil || r.check() != nil {
		return PortRange{}, fmt.Errorf("port range %.20q: want a port, or two joined by '-' with the lower one first, from 1 to 65535", s)
	}
	return r, nil
}

// ParsePortRanges parses a list of ranges. The error names each that is
// malformed.
func ParsePortRanges(list []string) (ranges []PortRange, err error) {
	var problems []error
	for _, text := range list {
		r, err := ParsePortRange(text)
		if err != nil {
			problems = append(problems, err)
		}
		ranges = append(ranges, r)
	}
	return ranges, errors.Join(problems...)
}

// PortTexts returns ranges as ParsePortRanges takes them.
func PortTexts(ranges []PortRange) (list []string) {
	for _, r := range ranges {
		list = append(list, r.String())
	}
	return list
}

func parsePort(s string) (uint16, error) {
	if strings.HasPrefix(s, "+") {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

func (r PortRange) contains(p uint16) bool { return r.First <= p && p <= r.Last }

func (r PortRange) check() error {
	if r.First == 0 || r.First > r.Last {
		return fmt.Errorf("port range %d-%d: want the lower port first, from 1 to 65535", r.First, r.Last)
	}
	return nil
}

// String returns the range as ParsePortRange takes it.
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}
