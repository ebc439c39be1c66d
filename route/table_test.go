package route_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"adit/route"
	"adit/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ tunnel.Availability = (*fakeTunnel)(nil)
	_ tunnel.Ender        = (*fakeTunnel)(nil)
)

func newTable(t testing.TB, opts route.Options) *route.Table {
	if opts.Domain == "" {
		opts.Domain = "example.com"
	}
	table := route.NewTable(opts)
	t.Cleanup(func() { table.Close() })
	return table
}

func add(t testing.TB, table *route.Table, e route.Entry) (remove func()) {
	t.Helper()
	remove, err := table.Add(e)
	if err != nil {
		t.Fatal(err)
	}
	return remove
}

// to returns where key leads to, as text.
func to(table *route.Table, key string) string {
	e, err := table.Route(context.Background(), key)
	switch {
	case errors.Is(err, tunnel.ErrNoRoute):
		return "no route"
	case errors.Is(err, tunnel.ErrOffline):
		return "offline"
	case errors.Is(err, tunnel.ErrQueueFull):
		return "queue full"
	case err != nil:
		return err.Error()
	}
	return fmt.Sprintf("%v/%s", e.Tunnel, e.Service)
}

func wantRoute(t *testing.T, table *route.Table, key, want string) {
	t.Helper()
	if got := to(table, key); got != want {
		t.Errorf("Route(%q): got %q, want %q", key, got, want)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{})
	add(t, table, route.Entry{ID: "web", Service: "s", Tunnel: newTunnel("web"), Hostnames: []string{"www.example.org", "example.org"}})
	add(t, table, route.Entry{ID: "web", Service: "ssh", Tunnel: newTunnel("port"), Port: 2222})
	add(t, table, route.Entry{ID: "db", Tunnel: newTunnel("db"), Port: 5432})
	for key, want := range map[string]string{
		"web.example.com":         "web/s",
		"/web":                    "web/s",
		"www.example.org":         "web/s",
		"example.org":             "web/s",
		":2222":                   "port/ssh",
		":5432":                   "db/",
		"db.example.com":          "no route", // it has a port only
		"/db":                     "no route",
		":02222":                  "no route",
		":80":                     "no route",
		"":                        "no route",
		"/":                       "no route",
		":":                       "no route",
		"web":                     "no route",
		"WEB.example.com":         "no route",
		"web.example.com.":        "no route",
		"web.example.com:80":      "no route",
		".example.com":            "no route",
		"example.com":             "no route",
		"a.web.example.com":       "no route",
		"web.example.net":         "no route",
		"xexample.com":            "no route",
		"web.example.com.evil.io": "no route",
	} {
		wantRoute(t, table, key, want)
	}
}

func TestAddRefuses(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{})
	tun, ended := newTunnel("x"), newTunnel("ended")
	ended.Close()
	for name, e := range map[string]route.Entry{
		"no id":             {Tunnel: tun},
		"no tunnel":         {ID: "x"},
		"upper case":        {ID: "x", Tunnel: tun, Hostnames: []string{"Example.org"}},
		"trailing dot":      {ID: "x", Tunnel: tun, Hostnames: []string{"example.org."}},
		"port in hostname":  {ID: "x", Tunnel: tun, Hostnames: []string{":80"}},
		"empty hostname":    {ID: "x", Tunnel: tun, Hostnames: []string{""}},
		"the domain":        {ID: "x", Tunnel: tun, Hostnames: []string{"example.com"}},
		"below the domain":  {ID: "x", Tunnel: tun, Hostnames: []string{"y.example.com"}},
		"port and hostname": {ID: "x", Tunnel: tun, Hostnames: []string{"a.org"}, Port: 1},
		"port and TLS":      {ID: "x", Tunnel: tun, TLS: true, Port: 1},
		"ended tunnel":      {ID: "x", Tunnel: ended},
	} {
		if _, err := table.Add(e); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if s := table.Snapshot(); len(s) != 0 {
		t.Errorf("after refusals the table has %+v, want nothing", s)
	}
}

func TestRoundRobin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{})
		a, b, c := newTunnel("a"), newTunnel("b"), newTunnel("c")
		for _, tun := range []*fakeTunnel{a, b, c} {
			add(t, table, route.Entry{ID: "web", Service: "s-" + tun.name, Tunnel: tun})
		}
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for range want {
				got = append(got, to(table, "/web"))
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q in some order", got, want)
			}
		}
		expect("a/s-a", "a/s-a", "b/s-b", "b/s-b", "c/s-c", "c/s-c")
		b.setAway(true)
		expect("a/s-a", "a/s-a", "c/s-c", "c/s-c")
		c.Close()
		expect("a/s-a", "a/s-a")
		b.setAway(false)
		expect("a/s-a", "b/s-b")
	})
}

func TestEndedTunnelLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{Hold: -1})
		a := newTunnel("a")
		add(t, table, route.Entry{ID: "one", Tunnel: a})
		add(t, table, route.Entry{ID: "two", Tunnel: a, Hostnames: []string{"two.org"}})
		add(t, table, route.Entry{ID: "two", Tunnel: a, Port: 22})
		a.Close()
		synctest.Wait()
		for _, key := range []string{"/one", "/two", "two.org", ":22"} {
			wantRoute(t, table, key, "no route")
		}
		if s := table.Snapshot(); len(s) != 0 {
			t.Errorf("the table has %+v, want nothing", s)
		}
	})
}

func TestTakeover(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{})
		old, other, ghost := newTunnel("old"), newTunnel("other"), newTunnel("new")
		add(t, table, route.Entry{ID: "web", Tunnel: old, Owner: "o", Instance: "i"})
		add(t, table, route.Entry{ID: "api", Tunnel: old, Owner: "o", Instance: "i"})
		add(t, table, route.Entry{ID: "web", Tunnel: old, Owner: "o", Instance: "i", Port: 22}) // not its own ghost
		wantRoute(t, table, "/web", "old/")

		// Other instances, and those without, are company.
		add(t, table, route.Entry{ID: "web", Tunnel: other, Owner: "o", Instance: "j"})
		add(t, table, route.Entry{ID: "web", Tunnel: other, Owner: "o"})
		select {
		case <-old.Done():
			t.Fatal("another instance replaced the tunnel")
		default:
		}

		add(t, table, route.Entry{ID: "web", Tunnel: ghost, Owner: "o", Instance: "i"})
		for range 6 {
			if got := to(table, "/web"); got == "old/" {
				t.Error("the replaced tunnel is still in the table")
			}
		}
		<-old.Done() // it gets closed
		if old.end != tunnel.EndSuperseded {
			t.Errorf("the replaced tunnel was ended with code %d, want %d", old.end, tunnel.EndSuperseded)
		}
		select {
		case <-other.Done():
			t.Error("the tunnel of another instance was closed")
		default:
		}
	})
}

func TestTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const hold = 30 * time.Second
		table := newTable(t, route.Options{Hold: hold})
		mine := []route.Entry{
			{ID: "web", Tunnel: newTunnel("web"), Owner: "me", Instance: "i"},
			{ID: "host", Tunnel: newTunnel("host"), Owner: "me", Hostnames: []string{"me.org"}},
			{ID: "port", Tunnel: newTunnel("port"), Owner: "me", Port: 22},
		}
		yours := []struct {
			entry route.Entry
			key   string
		}{
			{route.Entry{ID: "web", Tunnel: newTunnel("y1"), Owner: "you", Instance: "i"}, "/web"},
			{route.Entry{ID: "web", Tunnel: newTunnel("y2"), Owner: "you", Port: 4000}, "/web"},
			{route.Entry{ID: "port", Tunnel: newTunnel("y3"), Owner: "you"}, "/port"},
			{route.Entry{ID: "yours", Tunnel: newTunnel("y4"), Owner: "you", Hostnames: []string{"me.org"}}, "me.org"},
			{route.Entry{ID: "yours", Tunnel: newTunnel("y5"), Owner: "you", Port: 22}, ":22"},
		}
		var removes []func()
		for _, e := range mine {
			removes = append(removes, add(t, table, e))
		}
		check := func(when string) {
			t.Helper()
			for _, y := range yours {
				_, err := table.Add(y.entry)
				if taken, ok := errors.AsType[*route.TakenError](err); !ok || taken.Key != y.key {
					t.Errorf("%s: Add(%+v): got error %v, want that %q is taken", when, y.entry, err, y.key)
				}
			}
			for _, key := range []string{"/yours", ":4000"} {
				wantRoute(t, table, key, "no route") // nothing is half done
			}
		}
		check("while bound")
		if _, err := table.Add(route.Entry{ID: "second", Tunnel: newTunnel("p2"), Owner: "me", Port: 22}); err == nil {
			t.Error("two IDs of one owner share a port")
		}
		for _, remove := range removes {
			remove()
			remove() // again: nothing
		}
		time.Sleep(hold - 1) // the bubble's clock
		check("just before the time is over")
		time.Sleep(time.Nanosecond)
		for _, y := range yours {
			remove := add(t, table, y.entry)
			remove()
			// Released names are kept for the new owner now.
			if _, err := table.Add(route.Entry{ID: y.entry.ID, Tunnel: newTunnel("z"), Owner: "third"}); err == nil {
				t.Errorf("%s: a third owner got it at once", y.key)
			}
		}
	})
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{})
	away := newTunnel("b")
	away.setAway(true)
	add(t, table, route.Entry{ID: "web", Service: "s", Tunnel: newTunnel("a"), Owner: "o", Instance: "i"})
	add(t, table, route.Entry{ID: "web", Tunnel: away, Owner: "o"})
	add(t, table, route.Entry{ID: "web", Tunnel: away, Owner: "o", Port: 22})
	got := ""
	for _, n := range table.Snapshot() {
		got += fmt.Sprintf("%s %s %s %d %v", n.Key, n.ID, n.Owner, n.Waiting, n.Blocked)
		for _, tun := range n.Tunnels {
			got += fmt.Sprintf(" [%v %s %s %v]", tun.Tunnel, tun.Service, tun.Instance, tun.Available)
		}
		got += "\n"
	}
	want := "/web web o 0 false [a s i true] [b   false]\n:22 web o 0 false [b   false]\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestTunnelWithoutAvailability(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{Hold: -1})
		f := newTunnel("plain")
		f.setAway(true) // it has no way to say so
		add(t, table, route.Entry{ID: "web", Tunnel: plainTunnel{f}})
		if _, err := table.Route(t.Context(), "/web"); err != nil {
			t.Errorf("got error %v, want the tunnel", err)
		}
		f.Close()
		synctest.Wait()
		wantRoute(t, table, "/web", "no route")
		if s := table.Snapshot(); len(s) != 0 {
			t.Errorf("the table has %+v, want nothing", s)
		}
	})
}

// Many changes from several goroutines: the table ends up with the last one.
func TestAvailabilityIsNotOvertaken(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{Hold: -1})
	a := newTunnel("a")
	add(t, table, route.Entry{ID: "web", Tunnel: a})
	for i := range 200 {
		want := "offline"
		if i%2 == 0 {
			want = "a/"
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { a.setAway(i%2 != 0) })
		}
		wg.Wait()
		wantRoute(t, table, "/web", want)
	}
}

// Whatever happens at the same time: once remove has returned, Route does not
// return that tunnel.
func TestRemovedIsNeverReturned(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{Hold: time.Minute})
	add(t, table, route.Entry{ID: "web", Tunnel: newTunnel("stays"), Owner: "o"})

	type state struct {
		*fakeTunnel
		removed atomic.Bool
	}
	var states sync.Map // *fakeTunnel → *state
	stop := make(chan struct{})
	var visitors sync.WaitGroup
	for range 4 {
		visitors.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// What is removed before Route begins must not come back.
				gone := map[*fakeTunnel]bool{}
				states.Range(func(k, v any) bool {
					if v.(*state).removed.Load() {
						gone[k.(*fakeTunnel)] = true
					}
					return true
				})
				e, err := table.Route(context.Background(), "/web")
				if err != nil {
					t.Errorf("Route: %v", err)
					return
				}
				if gone[e.Tunnel.(*fakeTunnel)] {
					t.Errorf("Route returned %v after it was removed", e.Tunnel)
					return
				}
			}
		})
	}
	var agents sync.WaitGroup
	for g := range 3 {
		agents.Go(func() {
			for i := range 150 {
				tun := newTunnel(fmt.Sprintf("%d-%d", g, i))
				st := &state{fakeTunnel: tun}
				states.Store(tun, st)
				remove, err := table.Add(route.Entry{ID: "web", Tunnel: tun, Owner: "o", Instance: fmt.Sprint(g)})
				if err != nil {
					t.Errorf("Add: %v", err)
					return
				}
				tun.setAway(i%2 == 0)
				switch i % 3 {
				case 0:
					remove()
					st.removed.Store(true)
				case 1:
					tun.Close()
					st.removed.Store(true)
				case 2: // the next one replaces it
				}
				tun.setAway(false)
			}
		})
	}
	agents.Wait()
	close(stop)
	visitors.Wait()
}

func BenchmarkRoute(b *testing.B) {
	const names = 10_000
	table := newTable(b, route.Options{})
	keys := make([]string, names)
	for i := range names {
		id := tunnel.ID(fmt.Sprintf("some-longer-name-of-an-agent-%d", i))
		for range 2 {
			add(b, table, route.Entry{ID: id, Tunnel: newTunnel("t"), Owner: "o"})
		}
		keys[i] = string(id) + ".example.com"
	}
	ctx := context.Background()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := table.Route(ctx, keys[i%names]); err != nil {
			b.Fatal(err)
		}
		i += 7
	}
}
