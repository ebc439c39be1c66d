package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"adit/dialect"
	"adit/tunnel"
)

// linger is how long streams of a tunnel that was unbound are still taken: the
// server may have opened them before.
const linger = 5 * time.Second

// A Tunnel is one upstream and the public address that it gets.
type Tunnel struct {
	ID       tunnel.ID
	Kind     dialect.Kind
	Port     uint16     // public port of TCP or UDP; 0 lets the server choose
	Addr     netip.Addr // address of the server that the port is bound on; zero is where it has its ports
	Name     string     // of a dialect.Service
	Upstream *Upstream

	// As in dialect.Binding. HTTP2 and PerVisitor need not be set for what is
	// known of the Upstream.
	Hostnames  []string
	HTTP2      bool
	PerVisitor bool
	Policy     []byte
}

// http2 reports whether the upstream speaks HTTP/2.
func (t Tunnel) http2() bool { return t.HTTP2 || t.Upstream.http2 }

// binding is what t asks of the server, but for its key and service.
func (t Tunnel) binding() dialect.Binding {
	return dialect.Binding{
		Kind:       t.Kind,
		ID:         t.ID,
		Port:       t.Port,
		Addr:       t.Addr.Unmap(),
		Name:       t.Name,
		Hostnames:  t.Hostnames,
		HTTP2:      t.http2(),
		PerVisitor: t.PerVisitor || t.Kind == dialect.HTTP && t.Upstream.proxy != 0,
		Policy:     t.Policy,
	}
}

// same reports whether t and u are one tunnel: it leads to the very same
// Upstream, and asks for the same.
func (t Tunnel) same(u Tunnel) bool {
	return t.Upstream == u.Upstream && t.ID == u.ID && reflect.DeepEqual(t.binding(), u.binding())
}

// checkTunnels reports what is wrong with tunnels; none will say that there may
// be none.
func checkTunnels(tunnels []Tunnel, none bool) error {
	if len(tunnels) == 0 && !none {
		return errors.New("agent: no tunnels")
	}
	for i, t := range tunnels {
		if _, err := tunnel.ParseID(string(t.ID)); err != nil {
			return fmt.Errorf("agent: tunnel %d: %w", i+1, err)
		}
		if t.Upstream == nil {
			return fmt.Errorf("agent: tunnel %q has no upstream", t.ID)
		}
		if t.Upstream.http2 && t.Kind != dialect.HTTP {
			return fmt.Errorf("agent: tunnel %q: the upstream %s is for HTTP alone, and the tunnel is %s", t.ID, t.Upstream, t.Kind)
		}
		if t.Upstream.UDP() != (t.Kind == dialect.UDP) && t.Kind != dialect.Service {
			return fmt.Errorf("agent: tunnel %q is %s, and its upstream %s: both are of udp, or none", t.ID, t.Kind, t.Upstream)
		}
		if t.Addr.IsValid() && t.Kind != dialect.TCP && t.Kind != dialect.UDP {
			return fmt.Errorf("agent: tunnel %q is %s, which has no port of its own to be bound on %s", t.ID, t.Kind, t.Addr)
		}
		if err := t.checkExit(); err != nil {
			return err
		}
	}
	return nil
}

// checkExit reports why t may not lead to socks, if it does: that opens the
// agent's network to everybody who gets there.
func (t Tunnel) checkExit() error {
	switch {
	case !t.Upstream.Socks(), t.Kind == dialect.Service:
		return nil
	case t.Kind != dialect.TCP:
		return fmt.Errorf("agent: tunnel %q: the upstream socks is for TCP alone, and the tunnel is %s", t.ID, t.Kind)
	case len(t.Policy) == 0 && !t.Addr.IsLoopback():
		return fmt.Errorf("agent: tunnel %q: the upstream socks opens the agent's network: on a public port it takes a policy, or an address of the server's loopback", t.ID)
	}
	return nil
}

// A member is a tunnel of an agent's set. It keeps its service, under which the
// server asks for it, as long as it is there.
type member struct {
	Tunnel
	service string
	port    uint16 // public port that it had last; of the goroutine that binds it

	until time.Time // when its streams are refused, after it was unbound; guarded by tunnelSet.mu
}

// key is the member's name in calls of Bind.
func (m *member) key() string {
	if m.service == "" {
		return "0"
	}
	return m.service
}

// A tunnelSet is what an agent exposes.
type tunnelSet struct {
	changed chan struct{} // cap 1; filled when the set has changed

	mu      sync.Mutex // guards the fields below
	given   int        // services that were given out
	present []*member  // in the order of Options.Tunnels or Update
	leaving []*member  // were present, and may be bound yet
	known   map[string]*member
}

func newTunnelSet(tunnels []Tunnel) *tunnelSet {
	s := &tunnelSet{changed: make(chan struct{}, 1), known: make(map[string]*member)}
	s.update(tunnels)
	<-s.changed
	return s
}

// update makes tunnels the present set. Those that it had before stay the
// members that they are.
func (s *tunnelSet) update(tunnels []Tunnel) {
	s.mu.Lock()
	old := slices.Concat(s.present, s.leaving)
	s.present = make([]*member, 0, len(tunnels))
	for _, t := range tunnels {
		if i := slices.IndexFunc(old, func(m *member) bool { return m.same(t) }); i >= 0 {
			s.present = append(s.present, old[i])
			old = slices.Delete(old, i, i+1)
			continue
		}
		m := &member{Tunnel: t}
		if s.given > 0 { // the first is the default, which saves bytes in each OPEN
			m.service = strconv.Itoa(s.given)
		}
		s.given++
		s.known[m.service] = m
		s.present = append(s.present, m)
	}
	s.leaving = old
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// snapshot returns the members that should be bound, and those that should not.
func (s *tunnelSet) snapshot() (present, leaving []*member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.present), slices.Clone(s.leaving)
}

// find returns the tunnel that streams for a service belong to, if there is one.
func (s *tunnelSet) find(service string) (t Tunnel, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.known[service]
	if m == nil || !m.until.IsZero() && time.Now().After(m.until) {
		return Tunnel{}, false
	}
	return m.Tunnel, true
}

// retire forgets members that were leaving and are bound no more. It returns
// the upstreams that no other member has.
func (s *tunnelSet) retire(gone []*member) (unused []*Upstream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for service, m := range s.known {
		if !m.until.IsZero() && now.After(m.until) {
			delete(s.known, service)
		}
	}
	for _, m := range gone {
		i := slices.Index(s.leaving, m)
		if i < 0 {
			continue // it came back
		}
		s.leaving = slices.Delete(s.leaving, i, i+1)
		m.until = now.Add(linger)
	}
	for _, m := range gone {
		has := func(o *member) bool { return o.Upstream == m.Upstream }
		if !m.until.IsZero() && !slices.ContainsFunc(s.present, has) && !slices.ContainsFunc(s.leaving, has) && !slices.Contains(unused, m.Upstream) {
			unused = append(unused, m.Upstream)
		}
	}
	return unused
}
