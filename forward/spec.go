package forward

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"adit/tunnel"
)

// A Kind is what a Spec asks for.
type Kind string

const (
	Direct  Kind = "direct"  // each connection goes to the one target
	Socks   Kind = "socks"   // each says where it goes: SOCKS5 or HTTP CONNECT
	Stdio   Kind = "stdio"   // standard input and output are the one connection
	Reverse Kind = "reverse" // a port of the server leads to the target, which the agent dials

	// ReverseSocks is a port of the server on which each connection says where
	// it goes, which the agent dials.
	ReverseSocks Kind = "reverse-socks"
)

// A Spec is one forward, as ParseSpec takes it.
type Spec struct {
	Kind Kind

	// Network is that of Local: "tcp", "udp" or "unix".
	Network string

	// Local is where to listen: an address with a port, or the path of a
	// socket. It is empty with Stdio, Reverse and ReverseSocks.
	Local string

	// Port is the server's port of Reverse and ReverseSocks; 0 lets the server
	// choose. Addr is its address there; the zero Addr is where the server has
	// its public ports.
	Port uint16
	Addr netip.Addr

	// Target is where it goes; of Reverse, what the agent dials. It is zero
	// with Socks and ReverseSocks.
	Target tunnel.Target
}

// IsReverse reports whether s is about a port of the server.
func (s Spec) IsReverse() bool { return s.Kind == Reverse || s.Kind == ReverseSocks }

// maxSpec is the longest spec, in bytes.
const maxSpec = 512

const (
	loopback     = "127.0.0.1"
	localhost    = "localhost" // of the server, or with R: of the agent
	defaultSocks = "1080"
)

const wantSpec = "want LOCAL:TARGET such as 2222:db.internal:5432, 127.0.0.1:2222:host:22, 5353:1.1.1.1:53/udp, 2222:@office/ssh, unix:/path:host:22, R:2222:localhost:22 or R:socks"

// ParseSpec parses a forward, which is a remote in the grammar of chisel with
// some additions: [R:][LOCAL:]TARGET[/udp], where LOCAL is [HOST:]PORT,
// unix:PATH or stdio, and TARGET is [HOST:]PORT, unix:PATH, @ID/SERVICE or
// socks. An IPv6 address is in brackets. Without a host LOCAL is on loopback,
// and TARGET is the server's localhost. With R: it is the server that listens
// and this machine that dials: LOCAL is a port of the server, without a host
// where that has its public ports, or on loopback if the target is socks.
func ParseSpec(s string) (Spec, error) {
	spec, err := parseSpec(s)
	if err != nil {
		return Spec{}, fmt.Errorf("forward %.80q: %w: %s", s, err, wantSpec)
	}
	return spec, nil
}

func parseSpec(s string) (spec Spec, err error) {
	if len(s) > maxSpec {
		return spec, fmt.Errorf("it has %d bytes, and takes at most %d", len(s), maxSpec)
	}
	if rest, ok := strings.CutPrefix(s, "R:"); ok {
		return parseReverse(rest)
	}
	parts, err := split(s)
	if err != nil {
		return spec, err
	}
	spec.Kind = Direct
	if parts[0].text == "stdio" {
		spec.Kind = Stdio
		if parts = parts[1:]; len(parts) == 0 {
			return spec, errors.New("it has no target")
		}
	}
	last := parts[len(parts)-1]
	if last.text == "socks" && !last.bracketed {
		if spec.Kind == Stdio {
			return spec, errors.New("stdio has one target, and socks has any")
		}
		spec.Kind, spec.Network = Socks, "tcp"
		return spec.withLocal(parts[:len(parts)-1], defaultSocks)
	}
	parts, localPort, err := spec.takeTarget(parts)
	if err != nil {
		return spec, err
	}
	if err := spec.Target.Check(); err != nil {
		return spec, err
	}
	spec.Network = "tcp"
	if spec.Target.Datagrams() {
		spec.Network = "udp"
	}
	if spec.Kind == Stdio {
		switch {
		case len(parts) > 0:
			return spec, errors.New("stdio listens nowhere")
		case spec.Network == "udp":
			return spec, errors.New("stdio is one connection, and udp has none")
		}
		spec.Network = ""
		return spec, nil
	}
	return spec.withLocal(parts, localPort)
}

// parseReverse parses what is behind R:.
func parseReverse(s string) (spec Spec, err error) {
	parts, err := split(s)
	if err != nil {
		return spec, err
	}
	if parts[0].text == "stdio" {
		return spec, errors.New("stdio is of this machine, and R: listens on the server")
	}
	port := ""
	if last := parts[len(parts)-1]; last.text == "socks" && !last.bracketed && !last.unix {
		spec.Kind, parts, port = ReverseSocks, parts[:len(parts)-1], defaultSocks
		spec.Addr = netip.MustParseAddr(loopback)
	} else {
		spec.Kind = Reverse
		if parts, port, err = spec.takeTarget(parts); err == nil {
			err = spec.Target.Check()
		}
		if err == nil && spec.Target.OfAgent() {
			err = errors.New("what R: leads to is dialled by this machine, and is no service of another agent")
		}
		if err != nil {
			return spec, err
		}
	}
	if n := len(parts); n > 0 && parts[n-1].isPort() {
		if port, err = parts[n-1].port(spec.protocol()); err != nil {
			return spec, err
		}
		parts = parts[:n-1]
	}
	if n := len(parts); n > 0 {
		if spec.Addr, err = parseAddr(parts[n-1]); err != nil {
			return spec, err
		}
		parts = parts[:n-1]
	}
	switch {
	case len(parts) > 0:
		return spec, errors.New("it has too many parts")
	case port == "" && spec.Addr.IsValid():
		return spec, errors.New("it does not say which port of the server")
	case port != "":
		spec.Port, err = parsePort(port)
	}
	return spec, err
}

// protocol is what a port speaks: "tcp" or "udp".
func (s Spec) protocol() string {
	if s.Target.Datagrams() {
		return "udp"
	}
	return "tcp"
}

// parseAddr parses where the server listens. All of its addresses are where it
// has its public ports.
func parseAddr(p part) (netip.Addr, error) {
	if p.text == localhost {
		return netip.MustParseAddr(loopback), nil
	}
	a, err := netip.ParseAddr(p.text)
	if err != nil || a.Zone() != "" || p.unix {
		return a, fmt.Errorf("%.80q is no address of the server: want one such as 127.0.0.1, or localhost", p.text)
	}
	if a.IsUnspecified() {
		return netip.Addr{}, nil
	}
	return a.Unmap(), nil
}

// takeTarget takes the target off the end of parts. port is the one that the
// local side has if it says none.
func (s *Spec) takeTarget(parts []part) (rest []part, port string, err error) {
	last := parts[len(parts)-1]
	rest = parts[:len(parts)-1]
	switch {
	case last.unix:
		s.Target = tunnel.Target{Network: tunnel.Unix, Host: last.text}
		return rest, "", nil
	case strings.HasPrefix(last.text, "@"):
		id, service, _ := strings.Cut(last.text[1:], "/")
		s.Target = tunnel.Target{Network: tunnel.Agent, Host: id, Service: service}
		if name, ok := strings.CutSuffix(service, "/udp"); ok {
			s.Target.Network, s.Target.Service = tunnel.AgentUDP, name
		}
		return rest, "", nil
	}
	s.Target = tunnel.Target{Network: tunnel.TCP, Host: localhost}
	text, proto, has := strings.Cut(last.text, "/")
	if has && !last.bracketed && !isPort(text) {
		return nil, "", fmt.Errorf("%q is no port: did you mean @%s, a service of another agent?", text, last.text)
	}
	switch {
	case !has || strings.EqualFold(proto, "tcp"):
	case strings.EqualFold(proto, "udp"):
		s.Target.Network = tunnel.UDP
	default:
		return nil, "", fmt.Errorf("protocol %q: tcp and udp are allowed", proto)
	}
	if last.bracketed || !isPort(text) {
		return nil, "", fmt.Errorf("%q is no port", text)
	}
	if s.Target.Port, err = parsePort(text); err != nil {
		return nil, "", err
	}
	if len(rest) > 0 {
		if host := rest[len(rest)-1]; !host.isPort() && !host.unix {
			if host.text == "" || strings.Contains(host.text, "/") {
				return nil, "", fmt.Errorf("host %q is malformed", host.text)
			}
			if s.Target.Host, err = asciiHost(host.text); err != nil {
				return nil, "", err
			}
			rest = rest[:len(rest)-1]
		}
	}
	return rest, text, nil
}

// withLocal returns s with where it listens. port is the one of the target,
// which is the local one if there is no other; it may be empty.
func (s Spec) withLocal(parts []part, port string) (Spec, error) {
	host := loopback
	if len(parts) == 1 && parts[0].unix {
		if s.Network == "udp" {
			return s, errors.New("a unix socket takes connections, and udp has none")
		}
		s.Network, s.Local = "unix", parts[0].text
		if s.Local == "" || strings.ContainsRune(s.Local, 0) || len(s.Local) > tunnel.MaxSocketLen {
			return s, fmt.Errorf("socket %.40q: want a path of 1 to %d bytes", s.Local, tunnel.MaxSocketLen)
		}
		return s, nil
	}
	if n := len(parts); n > 0 && parts[n-1].isPort() {
		var err error
		if port, err = parts[n-1].port(s.Network); err != nil {
			return s, err
		}
		parts = parts[:n-1]
	}
	if n := len(parts); n > 0 && !parts[n-1].unix {
		host, parts = parts[n-1].text, parts[:n-1]
		if host == "" || strings.ContainsAny(host, "/@") {
			return s, fmt.Errorf("host %q is malformed", host)
		}
	}
	if len(parts) > 0 {
		return s, errors.New("it has too many parts")
	}
	if port == "" {
		return s, errors.New("it does not say where to listen")
	}
	if _, err := parsePort(port); err != nil {
		return s, err
	}
	s.Local = net.JoinHostPort(host, port)
	return s, nil
}

// A part is what stands between colons.
type part struct {
	text      string
	bracketed bool // it was in brackets, and so is an address
	unix      bool // it is a path, behind unix:
}

func (p part) isPort() bool {
	text, _, _ := strings.Cut(p.text, "/")
	return !p.bracketed && !p.unix && isPort(text)
}

// port returns the port that p is. chisel says the protocol on either side, or
// on both.
func (p part) port(protocol string) (string, error) {
	text, proto, has := strings.Cut(p.text, "/")
	if has && !strings.EqualFold(proto, protocol) {
		return "", fmt.Errorf("it has %s on one side and %s on the other", proto, protocol)
	}
	return text, nil
}

// split cuts a spec at its colons, but for those in brackets. It returns at
// least one part.
func split(s string) (parts []part, err error) {
	whole := s
	for more := true; more; {
		var p part
		if strings.HasPrefix(s, "[") {
			end := strings.IndexByte(s, ']')
			if end < 0 {
				return nil, errors.New("a bracket is not closed")
			}
			p = part{text: s[1:end], bracketed: true}
			if !strings.Contains(p.text, ":") {
				return nil, fmt.Errorf("%q in brackets is no IPv6 address", p.text)
			}
			if s, more = strings.CutPrefix(s[end+1:], ":"); !more && s != "" {
				return nil, errors.New("a bracket is followed by something else than a colon")
			}
		} else {
			p.text, s, more = strings.Cut(s, ":")
			if p.text == "unix" && more {
				p.text, s, more = strings.Cut(s, ":")
				p.unix = true
			}
		}
		switch {
		case p.text == "" && strings.Contains(whole, "::"):
			return nil, errors.New("a part of it is empty: an IPv6 address is in brackets")
		case p.text == "":
			return nil, errors.New("a part of it is empty")
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// asciiHost returns a name in the form in which it is looked up (RFC 5891).
func asciiHost(s string) (string, error) {
	if !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return s, nil
	}
	a, err := idna.Lookup.ToASCII(s)
	if err != nil || !utf8.ValidString(s) {
		return "", fmt.Errorf("host %.80q is no name", s)
	}
	return a, nil
}

func isPort(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %.10q: 1 to 65535 are allowed", s)
	}
	return uint16(n), nil
}

// ParseTarget parses where one connection goes: HOST:PORT, unix:PATH or
// @ID/SERVICE.
func ParseTarget(s string) (tunnel.Target, error) {
	spec, err := parseSpec("stdio:" + s)
	if err != nil {
		return tunnel.Target{}, fmt.Errorf("target %.80q: %w: want HOST:PORT, @ID/SERVICE or unix:/path", s, err)
	}
	return spec.Target, nil
}

// String returns the forward for people.
func (s Spec) String() string {
	local := s.Local
	if s.Network == "unix" {
		local = "unix:" + local
	}
	switch s.Kind {
	case Socks:
		return local + " → socks"
	case Stdio:
		return "stdio → " + s.Target.String()
	case Reverse:
		return s.serverPort() + " → " + s.Target.String()
	case ReverseSocks:
		return s.serverPort() + " → socks here"
	}
	return local + " → " + s.Target.String()
}

// serverPort says where the server listens.
func (s Spec) serverPort() string {
	text := "public port"
	if s.Port != 0 {
		text += " " + strconv.Itoa(int(s.Port))
	}
	if s.Addr.IsValid() {
		text += " on " + s.Addr.String()
	}
	return text
}
