package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"adit/auth"
	"adit/internal/pacing"
	"adit/tunnel"
)

// DialTimeout bounds a dial, with the look-up of the name.
const DialTimeout = 10 * time.Second

// maxAddrs is how many addresses of a name are looked at.
const maxAddrs = 16

// A Dialer dials targets for others: on the server for agents, and on an agent
// that is an exit for visitors. The zero Dialer is ready to use, and safe for
// concurrent use.
type Dialer struct {
	// Lookup resolves a name; nil is the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	// Addrs lists the addresses of this machine, which rules about all hosts
	// leave out; nil is net.InterfaceAddrs. If it fails, such rules allow
	// nothing.
	Addrs func() ([]net.Addr, error)

	own ownAddrs
}

// Rules say where a stream may go. Each is about the address that is dialled,
// and all of them have to allow it.
type Rules []auth.Scope

func (rs Rules) allow(f func(auth.Scope) bool) bool {
	for _, r := range rs {
		if !f(r) {
			return false
		}
	}
	return len(rs) > 0 // no rule, nothing allowed
}

// AllowsService reports whether all rules allow the service of an agent.
func (rs Rules) AllowsService(id, service string) bool {
	return rs.allow(func(s auth.Scope) bool { return s.AllowsService(id, service) })
}

// Allows reports whether rules allow c, to which t was dialled before.
func (d *Dialer) Allows(t tunnel.Target, c net.Conn, rules Rules) bool {
	switch t.Network {
	case tunnel.Unix:
		return rules.allow(func(s auth.Scope) bool { return s.AllowsSocket(t.Host) })
	case tunnel.Agent, tunnel.AgentUDP:
		return rules.AllowsService(t.Host, t.Service)
	}
	a, err := netip.ParseAddrPort(c.RemoteAddr().String())
	return err == nil && d.allows(rules, t.Host, a)
}

// allows reports whether all rules allow an address that was found for host.
func (d *Dialer) allows(rules Rules, host string, a netip.AddrPort) bool {
	if !rules.allow(func(s auth.Scope) bool { return s.AllowsForward(host, a) }) {
		return false
	}
	if rules.allow(func(s auth.Scope) bool { return s.AllowsForwardHere(host, a) }) {
		return true
	}
	list := d.Addrs
	if list == nil {
		list = net.InterfaceAddrs
	}
	return !d.own.has(a.Addr(), list)
}

// errNotAllowed does not say which address a name has.
var errNotAllowed = &tunnel.RefusedError{Code: tunnel.RefuseForbidden, Reason: "no rule allows this target"}

// Dial connects to a target of tcp, udp or unix, if rules allow the address that
// its host has now. A name is looked up once, and what was found is dialled. The
// error is a *tunnel.RefusedError whose reason names no address. DialTimeout
// bounds it.
func (d *Dialer) Dial(ctx context.Context, t tunnel.Target, rules Rules) (net.Conn, error) {
	if err := t.Check(); err != nil {
		return nil, &tunnel.RefusedError{Code: tunnel.RefuseForbidden, Reason: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	if t.Network == tunnel.Unix {
		if !rules.allow(func(s auth.Scope) bool { return s.AllowsSocket(t.Host) }) {
			return nil, errNotAllowed
		}
		c, err := new(net.Dialer).DialContext(ctx, "unix", t.Host)
		return c, refusedBy(err)
	}
	if t.Network != tunnel.TCP && t.Network != tunnel.UDP {
		return nil, errNotAllowed
	}
	addrs, err := d.resolve(ctx, t, rules)
	if err != nil {
		return nil, err
	}
	var first error
	for i, a := range addrs {
		c, err := d.dialAddr(ctx, t, netip.AddrPortFrom(a, t.Port), rules, len(addrs)-i)
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, refusedBy(first)
}

// resolve returns the addresses of a target that rules allow, at least one.
func (d *Dialer) resolve(ctx context.Context, t tunnel.Target, rules Rules) (allowed []netip.Addr, err error) {
	host := strings.TrimSuffix(t.Host, ".")
	named := true // the rules are about the name: then the answer may tell of it
	for _, r := range rules {
		may, byName := r.MayForward(host, t.Port)
		if !may {
			return nil, errNotAllowed
		}
		named = named && byName
	}
	var addrs []netip.Addr
	if a, perr := netip.ParseAddr(host); perr == nil {
		if a.Zone() != "" {
			return nil, errNotAllowed
		}
		addrs = []netip.Addr{a}
	} else {
		lookup := d.Lookup
		if lookup == nil {
			lookup = systemLookup
		}
		name := host
		if strings.Contains(host, ".") {
			name = t.Host // where it ends with a dot, it is looked up without search domains
		}
		if addrs, err = lookup(ctx, name); err != nil || len(addrs) == 0 {
			if !named {
				return nil, errNotAllowed
			}
			return nil, lookupFailed(err)
		}
	}
	for _, a := range addrs[:min(len(addrs), maxAddrs)] {
		if a = a.Unmap(); d.allows(rules, host, netip.AddrPortFrom(a, t.Port)) {
			allowed = append(allowed, a)
		}
	}
	if len(allowed) == 0 {
		return nil, errNotAllowed
	}
	if t.Network == tunnel.UDP {
		slices.SortStableFunc(allowed, loopback6Last)
	}
	return allowed, nil
}

// loopback6Last orders addresses for datagrams. Nothing tells that nobody takes
// them, so the first address is the one, and of a machine's own two most
// programs are at 127.0.0.1.
func loopback6Last(a, b netip.Addr) int {
	rank := func(a netip.Addr) int {
		if a.IsLoopback() && a.Is6() {
			return 1
		}
		return 0
	}
	return cmp.Compare(rank(a), rank(b))
}

func systemLookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func lookupFailed(err error) error {
	if de, ok := errors.AsType[*net.DNSError](err); err == nil || ok && de.IsNotFound {
		return &tunnel.RefusedError{Code: tunnel.RefuseUnknownHost, Reason: "no address is found for this name"}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &tunnel.RefusedError{Code: tunnel.RefuseUpstreamTimeout, Reason: "the name was not looked up in time"}
	}
	return &tunnel.RefusedError{Code: tunnel.RefuseUnknownHost, Reason: "the name could not be looked up"}
}

// dialAddr dials one of several addresses, with its share of the time that is
// left. The kernel is handed nothing that the rules were not asked about.
func (d *Dialer) dialAddr(ctx context.Context, t tunnel.Target, addr netip.AddrPort, rules Rules, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(time.Until(deadline)/time.Duration(left), 500*time.Millisecond))
		defer cancel()
	}
	nd := net.Dialer{ControlContext: func(_ context.Context, network, address string, c syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil || !strings.HasPrefix(network, string(t.Network)) || !d.allows(rules, t.Host, netip.AddrPortFrom(a.Addr().Unmap(), a.Port())) {
			return errNotAllowed
		}
		if t.Network == tunnel.UDP {
			return forbidBroadcast(c)
		}
		return pacing.Control(network, address, c)
	}}
	return nd.DialContext(ctx, string(t.Network), addr.String())
}

// refusedBy turns the error of a dial into what the agent may know: the kind of
// failure, and no addresses.
func refusedBy(err error) error {
	if err == nil {
		return nil
	}
	if re, ok := errors.AsType[*tunnel.RefusedError](err); ok {
		return re
	}
	var ne net.Error
	switch {
	case errors.As(err, &ne) && ne.Timeout(), errors.Is(err, context.Canceled):
		return &tunnel.RefusedError{Code: tunnel.RefuseUpstreamTimeout, Reason: "the target did not answer in time"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &tunnel.RefusedError{Code: tunnel.RefuseUpstreamRefused, Reason: "the target refused the connection"}
	case errors.Is(err, syscall.ENOENT):
		return &tunnel.RefusedError{Code: tunnel.RefuseUnknownHost, Reason: "there is no such socket"}
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return &tunnel.RefusedError{Code: tunnel.RefuseBusy, Reason: "there are as many connections as there may be"}
	}
	return &tunnel.RefusedError{Code: tunnel.RefuseUnreachable, Reason: fmt.Sprintf("the target is not reachable%s", errno(err))}
}

// errno is the system's word for a failure, such as ": no route to host".
func errno(err error) string {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return ": " + e.Error()
	}
	return ""
}
