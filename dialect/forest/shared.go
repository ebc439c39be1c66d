package forest

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"adit/internal/relay"
	"adit/tunnel"
)

// A Match is who gets the visitors of a shared port who ask for one name.
type Match struct {
	// Exact says that the name itself was given, and not a pattern; Any that
	// the pattern is for everybody.
	Exact, Any bool

	// Control says that the visitor is an agent, or comes to manage: it goes to
	// ServeControl. Otherwise it goes to Visit.
	Control bool

	entry *Entry
	host  string
}

// Visited tells of a visitor of a shared port who has gone.
type Visited struct {
	ID      tunnel.ID
	Service string
	relay.Result
}

// CheckShared returns an error unless the server takes nothing from strangers,
// as it has to at a port that others share: TLS, with names checked, and a list
// of who may manage it.
func (c ServerConfig) CheckShared() error {
	var problems []error
	wrong := func(ok bool, text string) {
		if !ok {
			problems = append(problems, errors.New(text))
		}
	}
	wrong(c.UseTls, "UseTls is false: want true")
	wrong(!c.twoPort(), "TunnelControlPort, ManagementPort: the files of two ports check no names: want ListenPort")
	wrong(c.ListenPort > 0, "ListenPort is missing")
	wrong(c.Domain != "", "Domain is missing: it is what follows @ in the names of certificates")
	wrong(len(c.ManagementCommonNames) > 0, `ManagementCommonNames is missing: it lists the certificates that may manage the tunnels, such as "automation@example.com"`)
	return errors.Join(problems...)
}

// ControlNames are the names that the server's certificate is for: those by
// which agents come to a shared port.
func (s *Server) ControlNames() []string { return s.tls.Certificates[0].Leaf.DNSNames }

// RunShared is Run beside somebody else who listens at addr, and whom Match tells
// which visitors are this server's. All tunnels are there, and so are agents and
// management if ListenPort is the port of addr. ready is called once Match may
// be.
func (s *Server) RunShared(ctx context.Context, addr netip.AddrPort, ready func()) error {
	s.share = addr
	return s.run(ctx, ready)
}

// atShared reports whether key is a part of the shared port.
func (s *Server) atShared(key listenKey) bool {
	front := s.share.Addr().Unmap()
	return int(s.share.Port()) == key.port && (front.IsUnspecified() || front == key.addr)
}

// listenAt opens a listener. At a shared port there is nothing to open.
func (s *Server) listenAt(key listenKey) (*listener, error) {
	switch {
	case !s.share.IsValid():
		return listenAt(key)
	case !s.atShared(key):
		return nil, &listenError{key, fmt.Errorf("tunnels are at %s alone here", s.share)}
	}
	return &listener{key: key, closing: make(chan struct{}), ended: make(chan struct{})}, nil
}

// publish makes the listeners of the shared port those that visitors are
// matched with. s.setMu is held.
func (s *Server) publish() {
	if !s.share.IsValid() {
		return
	}
	all := make([]*listener, 0, len(s.listeners))
	for _, l := range s.listeners {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b *listener) int {
		return cmp.Or(a.key.addr.Compare(b.key.addr), cmp.Compare(a.key.port, b.key.port))
	})
	s.shared.Store(&all)
}

// Match returns who gets those who ask for name at the shared port, at its
// address local. name is in lower case, and empty for who names nobody.
func (s *Server) Match(name string, local netip.AddrPort) (m Match, ok bool) {
	if name != "" && int(s.share.Port()) == s.config.ListenPort && slices.Contains(s.ControlNames(), name) {
		return Match{Exact: true, Control: true}, true
	}
	listeners := s.shared.Load()
	if listeners == nil {
		return m, false
	}
	var entries []Entry
	for _, l := range *listeners {
		if l.key.takes(local.Addr()) {
			entries = append(entries, *l.entries.Load()...)
		}
	}
	e := choose(entries, name)
	if e == nil {
		return m, false
	}
	return Match{Exact: !e.anyName() && !e.pattern(), Any: e.anyName(), entry: e, host: name}, true
}

// takes reports whether a visitor who came to local is for a listener at k.
func (k listenKey) takes(local netip.Addr) bool {
	local = local.Unmap()
	switch {
	case !k.addr.IsValid(), k.addr == netip.IPv6Unspecified():
		return true
	case k.addr == netip.IPv4Unspecified():
		return local.Is4()
	}
	return k.addr == local
}

// Visit serves a visitor of the shared port whom Match has said to be this
// server's, and of whom raw has been read, until it has gone or ctx ends. It
// closes conn, unless it returns an error.
func (s *Server) Visit(ctx context.Context, m Match, conn net.Conn, raw []byte) (Visited, error) {
	met := Visited{ID: tunnel.ID(m.entry.ClientIdentifier), Service: m.entry.service()}
	st, old, err := s.open(ctx, m.entry, m.host, conn)
	if err != nil {
		return met, err
	}
	met.Result = s.carry(ctx, m.entry, conn, raw, st, old)
	return met, nil
}

// ServeControl does the handshake with whoever came to the shared port by a name
// of ControlNames, within conn's deadline, and serves it. Unless it returns an
// error, conn is the server's.
func (s *Server) ServeControl(ctx context.Context, conn net.Conn) error {
	tc := tls.Server(&socket{Conn: conn}, s.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		s.log.Printf("TLS handshake error from %s: %v", conn.RemoteAddr(), err)
		return err
	}
	conn.SetDeadline(time.Time{})
	select {
	case s.handoff.conns <- tc:
		return nil
	case <-s.handoff.closed:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A handoff is a listener of conns that others have accepted.
type handoff struct {
	addr   netip.AddrPort
	conns  chan net.Conn
	closed chan struct{}
	end    func() // closes closed; may be called twice
}

func newHandoff(addr netip.AddrPort) *handoff {
	closed := make(chan struct{})
	return &handoff{addr, make(chan net.Conn), closed, sync.OnceFunc(func() { close(closed) })}
}

func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handoff) Close() error   { h.end(); return nil }
func (h *handoff) Addr() net.Addr { return net.TCPAddrFromAddrPort(h.addr) }
