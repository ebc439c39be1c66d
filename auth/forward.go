package auth

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"adit/tunnel"
)

// A ForwardRule allows the server to dial certain hosts at certain ports on
// behalf of an agent. The zero ForwardRule allows nothing.
type ForwardRule struct {
	// Host is a pattern of names, as for CheckHostPattern. The pattern "*"
	// stands for addresses too. It is empty if Prefix is valid.
	Host string

	// Prefix are addresses. It is masked, and of IPv4 or IPv6 but not of
	// IPv4-mapped IPv6.
	Prefix netip.Prefix

	// Socket is the path of a unix socket of the server. The other fields are
	// zero then, as they are with ID.
	Socket string

	// ID and Service are patterns of what other agents offer, as for
	// CheckPattern.
	ID, Service string

	Ports PortRange
}

var everyPort = PortRange{1, 65535}

const wantRule = "want HOST:PORTS such as db.internal:5432, *.internal:1-1024, 10.0.0.0/8:* or [2001:db8::/32]:443, @ID/SERVICE such as @office/ssh, or unix:/path"

// ParseForwardRule parses HOST:PORTS. HOST is a pattern of names, an address,
// or a prefix; one of IPv6 is in brackets. PORTS is a port, two joined by '-',
// or '*' for every port. Services of other agents are @ID/SERVICE, both of them
// patterns, and sockets of the server's machine unix:/path.
func ParseForwardRule(s string) (ForwardRule, error) {
	bad := func(why string) (ForwardRule, error) {
		return ForwardRule{}, fmt.Errorf("forward rule %.80q: %s: %s", s, why, wantRule)
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if err := (tunnel.Target{Network: tunnel.Unix, Host: path}).Check(); err != nil {
			return bad(err.Error())
		}
		return ForwardRule{Socket: path}, nil
	}
	if name, ok := strings.CutPrefix(s, "@"); ok {
		id, service, _ := strings.Cut(name, "/")
		if !isNamePattern(id) || !isNamePattern(service) {
			return bad("its ID or service is malformed")
		}
		return ForwardRule{ID: id, Service: service}, nil
	}
	at := strings.LastIndexByte(s, ':')
	if at < 0 {
		return bad("it has no ports")
	}
	host, ports := s[:at], s[at+1:]
	r := ForwardRule{Ports: everyPort}
	if ports != "*" {
		var err error
		if r.Ports, err = ParsePortRange(ports); err != nil {
			return bad("its ports are malformed")
		}
	}
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		var closed bool
		if host, closed = strings.CutSuffix(inner, "]"); !closed {
			return bad("the bracket is not closed")
		}
	}
	prefix, isPrefix, err := parsePrefix(host)
	switch {
	case err != nil:
		return bad(err.Error())
	case isPrefix && prefix.Addr().Is6() != bracketed:
		return bad("an IPv6 address is in brackets, and nothing else")
	case isPrefix:
		r.Prefix = prefix
		return r, nil
	case bracketed:
		return bad("an IPv6 address is in brackets, and nothing else")
	}
	if CheckHostPattern(host) != nil {
		return bad("its host is malformed")
	}
	r.Host = host
	return r, nil
}

// isNamePattern reports whether s is a pattern of native IDs, or of services.
func isNamePattern(s string) bool {
	return CheckPattern(s) == nil && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-*") == ""
}

// parsePrefix parses an address or a prefix. ok is false if s is neither.
func parsePrefix(s string) (p netip.Prefix, ok bool, err error) {
	if a, aerr := netip.ParseAddr(s); aerr == nil {
		if a.Zone() != "" {
			return p, false, fmt.Errorf("an address with a zone is not allowed")
		}
		p = netip.PrefixFrom(a, a.BitLen())
	} else if p, err = netip.ParsePrefix(s); err != nil {
		if strings.ContainsAny(s, "/:") {
			return p, false, fmt.Errorf("its address is malformed")
		}
		return p, false, nil
	}
	switch {
	case p.Addr().Is4In6():
		return p, false, fmt.Errorf("an IPv4 address is written as such")
	case p != p.Masked():
		return p, false, fmt.Errorf("the prefix has bits behind its length: want %v", p.Masked())
	}
	return p, true, nil
}

func (r ForwardRule) check() error {
	again, err := ParseForwardRule(r.String())
	if err == nil && again != r {
		err = fmt.Errorf("forward rule %.80q: %s", r, wantRule)
	}
	return err
}

// String returns the rule as ParseForwardRule takes it.
func (r ForwardRule) String() string {
	switch {
	case r.Socket != "":
		return "unix:" + r.Socket
	case r.ID != "":
		return "@" + r.ID + "/" + r.Service
	}
	host, ports := r.Host, r.Ports.String()
	if r.Prefix.IsValid() {
		host = r.Prefix.String()
		if r.Prefix.IsSingleIP() {
			host = r.Prefix.Addr().String()
		}
		if r.Prefix.Addr().Is6() {
			host = "[" + host + "]"
		}
	}
	if r.Ports == everyPort {
		ports = "*"
	}
	return host + ":" + ports
}

// special4 and special6 are addresses that no rule opens unless it is about
// them: with what is reached there, a name or a wide prefix gives away more than
// it says. They are this machine and its link, where clouds have their metadata
// and the keys in it, and addresses that stand for IPv4 ones.
var (
	special4 = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),          // this network (RFC 1122, section 3.2.1.3)
		netip.MustParsePrefix("127.0.0.0/8"),        // loopback
		netip.MustParsePrefix("169.254.0.0/16"),     // link-local; 169.254.169.254 is most clouds' metadata
		netip.MustParsePrefix("100.100.100.200/32"), // metadata at Alibaba
		netip.MustParsePrefix("168.63.129.16/32"),   // the host at Azure
		netip.MustParsePrefix("192.0.0.0/24"),       // protocol assignments; 192.0.0.192 is metadata at Oracle
		netip.MustParsePrefix("240.0.0.0/4"),        // reserved, and broadcast
	}
	special6 = []netip.Prefix{
		netip.MustParsePrefix("::1/128"),        // loopback
		netip.MustParsePrefix("fe80::/10"),      // link-local
		netip.MustParsePrefix("fd00:ec2::/32"),  // metadata at Amazon
		netip.MustParsePrefix("fd20:ce::/32"),   // metadata at Google
		netip.MustParsePrefix("fd00:c1::/32"),   // metadata at Oracle
		netip.MustParsePrefix("fd00:42::/32"),   // metadata at Scaleway
		netip.MustParsePrefix("2001::/32"),      // Teredo (RFC 4380)
		netip.MustParsePrefix("64:ff9b:1::/48"), // local NAT64 (RFC 8215)
	}

	// embedded are prefixes behind which an IPv4 address stands, and so it is
	// looked at as well.
	embedded = []netip.Prefix{
		netip.MustParsePrefix("::/96"),           // IPv4-compatible (RFC 4291, section 2.5.5.1)
		netip.MustParsePrefix("::ffff:0:0:0/96"), // IPv4-translated (RFC 2765)
		netip.MustParsePrefix("64:ff9b::/96"),    // NAT64 (RFC 6052)
		netip.MustParsePrefix("2002::/16"),       // 6to4 (RFC 3056)
	}

	special = allSpecial()
)

// allSpecial returns special4, special6, embedded, and special4 within those.
func allSpecial() []netip.Prefix {
	all := slices.Concat(special4, special6, embedded)
	for _, p := range embedded {
		for _, q := range special4 {
			b, v4 := p.Addr().As16(), q.Addr().As4()
			copy(b[p.Bits()/8:], v4[:])
			all = append(all, netip.PrefixFrom(netip.AddrFrom16(b), p.Bits()+q.Bits()))
		}
	}
	return all
}

// AllowsForward reports whether the server may dial addr for an agent that
// asked for host: a name, which was resolved to addr, or the address itself.
// It is asked for each dial, about the very address that is dialled, so that
// neither a notation nor a name's owner gets around a rule.
//
// A rule of names allows what such a name resolves to, but for addresses of
// this machine, its link and the metadata services of clouds: those take a rule
// with their address, or for loopback one with the name localhost. A prefix
// that is wider than they are does not count.
func (s Scope) AllowsForward(host string, addr netip.AddrPort) bool {
	return s.allowsForward(host, addr, false)
}

// AllowsForwardHere is like AllowsForward for an address of the server's own
// machine. What listens there for its own network alone, or trusts what comes
// from the machine itself, is not given away by a rule about all hosts, which
// does not count.
func (s Scope) AllowsForwardHere(host string, addr netip.AddrPort) bool {
	return s.allowsForward(host, addr, true)
}

func (s Scope) allowsForward(host string, addr netip.AddrPort, here bool) bool {
	ip := addr.Addr().Unmap()
	if addr.Port() == 0 || !ip.IsValid() || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() {
		return false
	}
	host = foldHost(host)
	asked, err := netip.ParseAddr(host)
	isName := err != nil
	if isName && tunnel.CheckHostname(host) != nil || !isName && (asked.Unmap() != ip || asked.Zone() != "") {
		return false
	}
	for _, r := range s.Forward {
		if r.Ports.contains(addr.Port()) && r.allows(host, isName, ip) && !(here && r.isOfAll()) {
			return true
		}
	}
	return false
}

// MayForward reports whether a rule could allow host at port, given the right
// address: where it is false, there is no need to look the name up. byName says
// that a rule is about the name, and not only about addresses that it may have.
func (s Scope) MayForward(host string, port uint16) (may, byName bool) {
	host = foldHost(host)
	if addr, err := netip.ParseAddr(host); err == nil {
		may = s.AllowsForward(host, netip.AddrPortFrom(addr.Unmap(), port))
		return may, may
	}
	if tunnel.CheckHostname(host) != nil {
		return false, false
	}
	for _, r := range s.Forward {
		if r.Ports.contains(port) {
			may = may || r.Prefix.IsValid() || r.Host == anyHost || r.Host != "" && matchHost(r.Host, host)
			byName = byName || r.Host == anyHost || r.Host != "" && matchHost(r.Host, host)
		}
	}
	return may, byName
}

// AllowsSocket reports whether the server may dial the unix socket at path. It
// takes a rule with the very path.
func (s Scope) AllowsSocket(path string) bool {
	for _, r := range s.Forward {
		if path != "" && r.Socket == path {
			return true
		}
	}
	return false
}

// AllowsService reports whether the service of that name of the agent id may be
// reached.
func (s Scope) AllowsService(id, service string) bool {
	for _, r := range s.Forward {
		if r.ID != "" && id != "" && service != "" && match(r.ID, id) && match(r.Service, service) {
			return true
		}
	}
	return false
}

// foldHost returns a host in lower case, without the dot that may end it. Only
// ASCII is folded: what else has a lower case in ASCII is another name to who
// looks it up.
func foldHost(host string) string {
	return strings.TrimSuffix(strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, host), ".")
}

// isOfAll reports whether r is about all hosts.
func (r ForwardRule) isOfAll() bool {
	return r.Host == anyHost || r.Prefix.IsValid() && r.Prefix.Bits() == 0
}

func (r ForwardRule) allows(host string, isName bool, ip netip.Addr) bool {
	if r.Prefix.IsValid() {
		return r.Prefix.Contains(ip) && r.isExplicit(ip)
	}
	matches := r.Host == anyHost || isName && r.Host != "" && matchHost(r.Host, host)
	return matches && (r.isExplicit(ip) || r.Host == "localhost" && ip.IsLoopback())
}

// isExplicit reports whether r is about ip as far as that is special.
func (r ForwardRule) isExplicit(ip netip.Addr) bool {
	for _, p := range special {
		if p.Contains(ip) && !(r.Prefix.IsValid() && p.Contains(r.Prefix.Addr()) && r.Prefix.Bits() >= p.Bits()) {
			return false
		}
	}
	return true
}
