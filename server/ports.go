package server

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"adit/auth"
	"adit/dialect"
	"adit/ingress"
	"adit/route"
	"adit/tunnel"
)

// A portDoor is the ingress for public ports of TCP or UDP.
type portDoor interface {
	Listen(name tunnel.ID, port uint16, on netip.Addr) (netip.AddrPort, func(), error)
	ListenAny(name tunnel.ID, on netip.Addr, allow func(uint16) bool) (netip.AddrPort, func(), error)
	Open(name tunnel.ID, port uint16) (netip.AddrPort, func(), error)
	SetPorts([]ingress.PortRange)
	Ports() []ingress.PortRange
}

var (
	_ portDoor = (*ingress.TCP)(nil)
	_ portDoor = (*ingress.UDP)(nil)
)

// hasPort reports whether visitors find a binding of that kind at a port of its
// own.
func hasPort(k dialect.Kind) bool { return k == dialect.TCP || k == dialect.UDP }

// door returns the ingress for public ports, and those that it gives out.
func (s *Server) door(udp bool) (portDoor, []ingress.PortRange) {
	var d portDoor = s.tcp
	if udp {
		d = s.udp
	}
	return d, d.Ports()
}

// SetPorts replaces Options.TCPPorts and Options.UDPPorts. Agents that have a
// port which is given out no more are disconnected: they come back, and are told.
func (s *Server) SetPorts(tcp, udp []ingress.PortRange) {
	s.tcp.SetPorts(tcp)
	s.udp.SetPorts(udp)
	for _, b := range s.binders() {
		if err := b.checkPorts(); err != nil {
			b.info("port withdrawn", "subject", b.holder, "err", err)
			go s.unlessClosing(func() { end(b.tunnel, tunnel.EndDone, err.Error()) })
		}
	}
}

// checkPorts says which of b's ports is given out no more.
func (b *binder) checkPorts() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.names {
		if err := b.server.givesOut(n); err != nil {
			return err
		}
	}
	return nil
}

// givesOut says why a port that was opened for a name is given out no more.
func (s *Server) givesOut(n name) error {
	_, ranges := s.door(n.kind == dialect.UDP)
	if n.port == 0 || slices.ContainsFunc(ranges, func(r ingress.PortRange) bool { return r.First <= n.port && n.port <= r.Last }) {
		return nil
	}
	return fmt.Errorf("port %d: this server gives out %s", n.port, portList(n.kind, ranges))
}

// listen opens the public port of a binding.
func (b *binder) listen(bd dialect.Binding, id *auth.Identity) (netip.AddrPort, func(), error) {
	udp, allow := bd.Kind == dialect.UDP, id.Scope.AllowsPort
	if udp {
		allow = id.Scope.AllowsUDPPort
	}
	door, ranges := b.server.door(udp)
	if bd.Port != 0 {
		return door.Listen(b.server.portName(bd.ID, route.PortKey(bd.Port, udp)), bd.Port, bd.Addr)
	}
	port := preferredPort(ranges, bd.ID, allow)
	if port != 0 && !b.has(bd.Kind, bd.ID, port) {
		if addr, closePort, err := door.Listen(bd.ID, port, bd.Addr); err == nil {
			return addr, closePort, nil
		}
	}
	return door.ListenAny(bd.ID, bd.Addr, allow)
}

// has reports whether the port is this tunnel's own already, under another key.
func (b *binder) has(kind dialect.Kind, id tunnel.ID, port uint16) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.names {
		if n.id == id && n.kind == kind && n.port == port {
			return true
		}
	}
	return false
}

// portURL returns how visitors reach a port: at the host by which the agent
// reached the server, unless the port is bound on an address that was asked for.
func (b *binder) portURL(bd dialect.Binding, addr netip.AddrPort) string {
	base := b.server.baseFor(b.host, b.secure)
	host := base.Hostname()
	if bd.Addr.IsValid() && !addr.Addr().IsUnspecified() {
		host = addr.Addr().String()
	}
	return string(bd.Kind) + "://" + net.JoinHostPort(host, strconv.Itoa(int(addr.Port())))
}

func (b *binder) portError(bd dialect.Binding, err error) error {
	s := b.server
	_, ranges := s.door(bd.Kind == dialect.UDP)
	given := "this server gives out " + portList(bd.Kind, ranges)
	e := &dialect.BindError{Code: dialect.BindInternal, Reason: fmt.Sprintf("port %d cannot be opened", bd.Port)}
	switch {
	case errors.Is(err, ingress.ErrPortNotAllowed):
		e.Code, e.Reason = dialect.BindForbidden, fmt.Sprintf("port %d: %s", bd.Port, given)
	case errors.Is(err, ingress.ErrPortInUse):
		e.Code, e.Reason = dialect.BindPortInUse, fmt.Sprintf("port %d is in use", bd.Port)
	case errors.Is(err, ingress.ErrNoPort):
		e.Code, e.Reason = dialect.BindNoPort, "no port is free that the credential allows: "+given
	case errors.Is(err, ingress.ErrAddrNotAllowed) && s.portHost.IsValid():
		e.Code, e.Reason = dialect.BindForbidden, fmt.Sprintf("address %v: the public ports of this server are on %v alone", bd.Addr, s.portHost)
	case errors.Is(err, ingress.ErrAddrNotAllowed):
		e.Code, e.Reason = dialect.BindInvalid, fmt.Sprintf("address %v: want one of the server's own that is not link-local, such as 127.0.0.1", bd.Addr)
	case errors.Is(err, ingress.ErrNoAddr):
		e.Code, e.Reason = dialect.BindInvalid, fmt.Sprintf("address %v: the server has no such address", bd.Addr)
	default:
		s.log.Error("port not opened", "remote", b.remote, "kind", string(bd.Kind), "err", err)
	}
	return e
}

// portList says which public ports there are.
func portList(kind dialect.Kind, ranges []ingress.PortRange) string {
	proto := strings.ToUpper(string(kind))
	if len(ranges) == 0 {
		return fmt.Sprintf("no %s ports (its operator sets --%s-ports)", proto, kind)
	}
	var list []string
	for _, r := range ranges {
		list = append(list, auth.PortRange(r).String())
	}
	return "the " + proto + " ports " + strings.Join(list, ", ")
}

// preferredPort is the public port that an ID gets if it asks for none and can
// have it, so that it has the same one each time; 0 if allow allows none.
func preferredPort(ranges []ingress.PortRange, id tunnel.ID, allow func(uint16) bool) uint16 {
	n := 0
	eachPort(ranges, allow, func(uint16) bool { n++; return true })
	if n == 0 {
		return 0
	}
	h := fnv.New32a()
	h.Write([]byte(id))
	at := int(h.Sum32() % uint32(n))
	var port uint16
	eachPort(ranges, allow, func(p uint16) bool { port = p; at--; return at >= 0 })
	return port
}

// eachPort calls f for each port that allow allows until f returns false.
func eachPort(ranges []ingress.PortRange, allow func(uint16) bool, f func(uint16) bool) {
	for _, r := range ranges {
		for p := int(r.First); p <= int(r.Last); p++ {
			if allow(uint16(p)) && !f(uint16(p)) {
				return
			}
		}
	}
}
