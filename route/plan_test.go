package route_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"adit/policy"
	"adit/route"
	"adit/tunnel"
)

func setRules(t testing.TB, table *route.Table, rules ...route.Rule) {
	t.Helper()
	checked, err := route.CheckRules(rules, "example.com")
	if err != nil {
		t.Fatal(err)
	}
	table.SetRules(checked)
}

// members parses "id/priority/weight".
func members(specs ...string) (all []route.Member) {
	for _, s := range specs {
		var m route.Member
		id, rest, _ := strings.Cut(s, "/")
		m.ID = tunnel.ID(id)
		fmt.Sscanf(rest, "%d/%d", &m.Priority, &m.Weight)
		all = append(all, m)
	}
	return all
}

// count asks n times and returns how often each tunnel was the answer.
func count(t *testing.T, table *route.Table, key string, who route.Visitor, n int) map[string]int {
	t.Helper()
	got := make(map[string]int)
	for range n {
		c, err := table.RouteFor(t.Context(), key, who)
		if err != nil {
			t.Fatal(err)
		}
		got[c.Tunnel.(fmt.Stringer).String()]++
	}
	return got
}

func TestRulePriorityAndWeight(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{Hold: -1})
	a, b, c := newTunnel("a"), newTunnel("b"), newTunnel("c")
	for _, tun := range []*fakeTunnel{a, b, c} {
		add(t, table, route.Entry{ID: tun.ID(), Tunnel: tun, Owner: tun.name})
	}
	setRules(t, table, route.Rule{Name: "web", Members: members("a/1/3", "b/1/1", "c/2/1")})
	want := func(step string, want map[string]int) {
		t.Helper()
		if got := count(t, table, "/web", route.Visitor{}, 8); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", step, got, want)
		}
	}
	want("all are here", map[string]int{"a": 6, "b": 2})
	a.setAway(true)
	want("a is away", map[string]int{"b": 8})
	b.Close()
	want("b has ended", map[string]int{"c": 8})
	a.setAway(false)
	want("a is back", map[string]int{"a": 8})
	if got := count(t, table, "/c", route.Visitor{}, 1); got["c"] != 1 {
		t.Errorf("the member's own name: got %v, want c", got)
	}
	setRules(t, table)
	if _, err := table.Route(t.Context(), "/web"); !errors.Is(err, tunnel.ErrNoRoute) {
		t.Errorf("without the rule got %v, want ErrNoRoute", err)
	}
}

// The weighted choice is spread evenly: a,a,b,a and not a,a,a,b.
func TestRuleChoiceIsSmooth(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{})
	for _, n := range []string{"a", "b"} {
		add(t, table, route.Entry{ID: tunnel.ID(n), Tunnel: newTunnel(n), Owner: "o"})
	}
	setRules(t, table, route.Rule{Name: "web", Members: members("a/1/3", "b/1/1")})
	var got []string
	for range 8 {
		got = append(got, strings.TrimSuffix(to(table, "/web"), "/"))
	}
	if s := strings.Join(got, ""); s != "aabaaaba" {
		t.Errorf("got %s, want aabaaaba", s)
	}
}

func TestRuleSticky(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{})
	all := map[string]*fakeTunnel{}
	for _, n := range []string{"a", "b", "c"} {
		all[n] = newTunnel(n)
		add(t, table, route.Entry{ID: tunnel.ID(n), Tunnel: all[n], Owner: "o"})
	}
	setRules(t, table, route.Rule{Name: "web", Sticky: route.Source, Members: members("a", "b", "c/1/2")})
	where := func() map[netip.Addr]string {
		at := make(map[netip.Addr]string)
		for i := range 600 {
			addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			for name, n := range count(t, table, "/web", route.Visitor{Addr: addr}, 2) {
				if n != 2 {
					t.Fatalf("%v went to two members", addr)
				}
				at[addr] = name
			}
		}
		return at
	}
	before := where()
	shares := make(map[string]int)
	for _, name := range before {
		shares[name]++
	}
	if shares["c"] < 240 || shares["c"] > 360 || shares["a"] < 100 || shares["b"] < 100 {
		t.Errorf("got shares %v, want about 150, 150 and 300", shares)
	}
	all["b"].setAway(true)
	for addr, name := range where() {
		if before[addr] != "b" && before[addr] != name {
			t.Fatalf("%v moved from %s to %s, though that one is here", addr, before[addr], name)
		}
	}
	one := netip.MustParseAddr("2001:db8::1")
	other := netip.MustParseAddr("2001:db8::ffff:2")
	if a, b := count(t, table, "/web", route.Visitor{Addr: one}, 1), count(t, table, "/web", route.Visitor{Addr: other}, 1); fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("one network of IPv6: got %v and %v, want the same", a, b)
	}
}

// What has failed a visitor comes last, and if there is nothing else it comes.
func TestTriedComesLast(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{})
	a, b := newTunnel("a"), newTunnel("b")
	for _, tun := range []*fakeTunnel{a, b} {
		add(t, table, route.Entry{ID: tun.ID(), Tunnel: tun, Owner: "o"})
		add(t, table, route.Entry{ID: "both", Tunnel: tun, Owner: "o"})
	}
	setRules(t, table, route.Rule{Name: "web", Members: members("a", "b/2")})
	for _, key := range []string{"/web", "/both"} {
		if got := count(t, table, key, route.Visitor{Tried: []tunnel.Tunnel{a}}, 4); got["b"] != 4 {
			t.Errorf("%s, a was tried: got %v, want b", key, got)
		}
		if got := count(t, table, key, route.Visitor{Tried: []tunnel.Tunnel{a, b}}, 4); len(got) == 0 {
			t.Errorf("%s, all were tried: got %v, want any", key, got)
		}
	}
}

func TestRuleKinds(t *testing.T) {
	t.Parallel()
	guard, err := policy.NewGuard("guarded", policy.Policy{MaxBody: 1})
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]route.Entry{
		"plain":   {ID: "plain"},
		"guarded": {ID: "guarded", Policy: guard},
		"h2":      {ID: "h2", HTTP2: true},
		"tls":     {ID: "tls", TLS: true},
		"tcp":     {ID: "tcp", Port: 2000},
		"service": {ID: "service", Name: "ssh"},
	}
	for kind, want := range map[route.Kind]string{
		route.HTTP: "guarded h2 plain",
		route.TLS:  "plain tcp tls",
		route.TCP:  "plain tcp tls",
	} {
		name := "www.example.org"
		if kind == route.TCP {
			name = ":2222"
		}
		var got []string
		for _, id := range []string{"guarded", "h2", "plain", "service", "tcp", "tls"} {
			table := newTable(t, route.Options{Hold: -1})
			e := entries[id]
			e.Tunnel, e.Owner = newTunnel(id), "o"
			add(t, table, e)
			setRules(t, table, route.Rule{Name: name, Kind: kind, Members: members(id)})
			c, err := table.RouteFor(t.Context(), name, route.Visitor{})
			if err == nil {
				got = append(got, id)
				if c.TLS != (kind == route.TLS) {
					t.Errorf("%s to %s: TLS is %v", kind, id, c.TLS)
				}
			} else if !errors.Is(err, tunnel.ErrOffline) {
				t.Errorf("%s to %s: got %v, want ErrOffline", kind, id, err)
			}
			if tls, known := table.TLS(t.Context(), name); !known || tls != (kind == route.TLS) {
				t.Errorf("TLS of a rule for %s: got %v, %v", kind, tls, known)
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s leads to %s, want %s", kind, s, want)
		}
	}
}

// A visitor who waits at a rule is led on by an agent that comes, by a change of
// the rule, and by its end.
func TestWaitAtRule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{})
		ask := func() chan string {
			answer := make(chan string, 1)
			go func() { answer <- strings.TrimSuffix(to(table, "/web"), "/") }()
			synctest.Wait()
			return answer
		}
		setRules(t, table, route.Rule{Name: "web", Members: members("a")})
		first := ask()
		remove := add(t, table, route.Entry{ID: "a", Tunnel: newTunnel("a"), Owner: "o"})
		if got := <-first; got != "a" {
			t.Errorf("an agent came: got %s, want a", got)
		}
		remove()
		second := ask()
		add(t, table, route.Entry{ID: "b", Tunnel: newTunnel("b"), Owner: "o"})
		setRules(t, table, route.Rule{Name: "web", Members: members("b")})
		if got := <-second; got != "b" {
			t.Errorf("the rule has changed: got %s, want b", got)
		}
		setRules(t, table, route.Rule{Name: "web", Members: members("nobody")})
		third := ask()
		setRules(t, table)
		if got := <-third; !strings.Contains(got, "no route") {
			t.Errorf("the rule has gone: got %s, want that there is no route", got)
		}
		setRules(t, table, route.Rule{Name: "web", Members: members("nobody")})
		began := time.Now()
		if got := to(table, "/web"); !strings.Contains(got, "offline") || time.Since(began) != 30*time.Second {
			t.Errorf("nobody came: got %s after %v, want that the agent is offline after 30 s", got, time.Since(began))
		}
	})
}

func TestBlockedRule(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{Hold: -1})
	add(t, table, route.Entry{ID: "a", Tunnel: newTunnel("a"), Owner: "o"})
	setRules(t, table, route.Rule{Name: "web", Members: members("a")})
	if serving := table.Block("web"); len(serving) > 0 {
		t.Errorf("got %v, want no tunnels to be ended: they serve others", serving)
	}
	if _, err := table.Route(t.Context(), "/web"); !errors.Is(err, tunnel.ErrBlocked) {
		t.Errorf("got %v, want ErrBlocked", err)
	}
	table.Unblock("web")
	table.Block("a")
	if _, err := table.Route(t.Context(), "/web"); !errors.Is(err, tunnel.ErrOffline) {
		t.Errorf("the member is blocked: got %v, want ErrOffline", err)
	}
}

// A silentTunnel can be asked whether it is there.
type silentTunnel struct {
	*fakeTunnel
	dead   atomic.Bool
	probes atomic.Int32

	mu    sync.Mutex
	heard time.Time
}

func newSilent(name string) *silentTunnel {
	return &silentTunnel{fakeTunnel: newTunnel(name), heard: time.Now()}
}

func (s *silentTunnel) Probe() {
	s.probes.Add(1)
	if !s.dead.Load() {
		s.mu.Lock()
		s.heard = time.Now()
		s.mu.Unlock()
	}
}

func (s *silentTunnel) Heard() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard
}

// A silent tunnel is given up within 5 s from the moment on in which it is heard
// for the last time, and is asked only while visitors go there.
func TestSilentTunnel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{})
		a, b := newSilent("a"), newSilent("b")
		add(t, table, route.Entry{ID: "a", Tunnel: a, Owner: "o"})
		add(t, table, route.Entry{ID: "b", Tunnel: b, Owner: "o"})
		setRules(t, table, route.Rule{Name: "web", Members: members("a", "b/2")})
		c, err := table.RouteFor(t.Context(), "/web", route.Visitor{})
		if err != nil || c.Alive == nil {
			t.Fatalf("got %v, %v, want a choice with an end", c, err)
		}
		time.Sleep(3 * time.Second)
		if c.Alive.Err() != nil {
			t.Fatal("a tunnel that answers was given up")
		}
		a.dead.Store(true)
		died := time.Now()
		<-c.Alive.Done()
		if took := time.Since(died); took > 4*time.Second {
			t.Errorf("given up after %v, want at most 4 s", took)
		}
		if got := count(t, table, "/web", route.Visitor{}, 4); got["b"] != 4 {
			t.Errorf("a is silent: got %v, want b", got)
		}
		b.setAway(true)
		if got := count(t, table, "/web", route.Visitor{}, 4); got["a"] != 4 {
			t.Errorf("b is away: got %v, want a all the same", got)
		}
		b.setAway(false)
		a.dead.Store(false)
		time.Sleep(2 * time.Second)
		if got := count(t, table, "/web", route.Visitor{}, 4); got["a"] != 4 {
			t.Errorf("a speaks again: got %v, want a", got)
		}
		time.Sleep(time.Minute)
		asked := a.probes.Load()
		time.Sleep(time.Minute)
		if now := a.probes.Load(); now != asked {
			t.Errorf("asked %d times while nobody came, want 0", now-asked)
		}
	})
}

// Two tunnels under one ID watch over one another without any rule; one alone
// has nobody to be given up for.
func TestSilentTunnelWithoutRule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{})
		a := newSilent("a")
		add(t, table, route.Entry{ID: "web", Tunnel: a, Owner: "o"})
		if c, err := table.RouteFor(t.Context(), "/web", route.Visitor{}); err != nil || c.Alive != nil {
			t.Fatalf("alone: got %v, %v, want a choice without an end", c, err)
		}
		add(t, table, route.Entry{ID: "web", Tunnel: newSilent("b"), Owner: "o"})
		a.dead.Store(true)
		count(t, table, "/web", route.Visitor{}, 2)
		time.Sleep(5 * time.Second)
		if got := count(t, table, "/web", route.Visitor{}, 4); got["b"] != 4 {
			t.Errorf("a is silent: got %v, want b", got)
		}
		a.Close()
	})
}

// A checkedTunnel takes streams, or refuses them.
type checkedTunnel struct {
	*fakeTunnel
	bad atomic.Bool
}

func (c *checkedTunnel) OpenStream(context.Context, tunnel.StreamInfo) (net.Conn, error) {
	if c.bad.Load() {
		return nil, &tunnel.RefusedError{Code: tunnel.RefuseUpstreamRefused}
	}
	here, there := net.Pipe()
	go func() {
		there.Read(make([]byte, 1)) // until the check is over
		there.Close()
	}()
	return here, nil
}

func TestChecks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{})
		a, b := &checkedTunnel{fakeTunnel: newTunnel("a")}, &checkedTunnel{fakeTunnel: newTunnel("b")}
		add(t, table, route.Entry{ID: "a", Tunnel: a, Owner: "o"})
		add(t, table, route.Entry{ID: "b", Tunnel: b, Owner: "o"})
		rule := route.Rule{Name: "web", Members: members("a", "b/2"), Check: &route.Check{Interval: time.Second, Healthy: 3, Unhealthy: 2}}
		setRules(t, table, rule)
		goes := func(what, want string) {
			t.Helper()
			if got := strings.TrimSuffix(to(table, "/web"), "/"); got != want {
				t.Errorf("%s: got %s, want %s", what, got, want)
			}
		}
		time.Sleep(1500 * time.Millisecond)
		goes("both are well", "a")
		a.bad.Store(true)
		time.Sleep(time.Second)
		goes("one check has failed", "a")
		time.Sleep(time.Second)
		goes("two have", "b")
		b.bad.Store(true)
		time.Sleep(3 * time.Second)
		goes("none is well", "a")
		a.bad.Store(false)
		b.bad.Store(false)
		time.Sleep(4 * time.Second)
		goes("both are well again", "a")

		// Another rule with the same check keeps what is known.
		a.bad.Store(true)
		time.Sleep(2 * time.Second)
		rule.Members = members("b/3", "a/1")
		setRules(t, table, rule)
		goes("in another order", "b")
		for _, n := range table.Snapshot() {
			if n.Key == "/web" && (n.Tunnels[1].Health != "unhealthy" || n.Tunnels[1].Problem == "" || n.Tunnels[0].Health != "healthy") {
				t.Errorf("got %+v, want a unhealthy, with the reason, and b healthy", n.Tunnels)
			}
		}
		// Without the check a's session is all that counts.
		rule.Check = nil
		setRules(t, table, rule)
		goes("without check", "a")
	})
}
