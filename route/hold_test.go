package route_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/route"
	"adit/tunnel"
)

func TestHold(t *testing.T) {
	t.Parallel()
	const hold = 30 * time.Second
	for _, tt := range []struct {
		name string
		// leave makes the tunnel unusable, back makes it usable or brings
		// another; remove is what Add returned.
		leave func(a *fakeTunnel, remove func())
		back  func(t *testing.T, table *route.Table, a *fakeTunnel)
	}{
		{"between carriers",
			func(a *fakeTunnel, _ func()) { a.setAway(true) },
			func(_ *testing.T, _ *route.Table, a *fakeTunnel) { a.setAway(false) }},
		{"ended",
			func(a *fakeTunnel, _ func()) { a.Close() },
			func(t *testing.T, table *route.Table, _ *fakeTunnel) {
				add(t, table, route.Entry{ID: "web", Tunnel: newTunnel("a")})
			}},
		{"removed",
			func(_ *fakeTunnel, remove func()) { remove() },
			func(t *testing.T, table *route.Table, a *fakeTunnel) {
				add(t, table, route.Entry{ID: "web", Tunnel: a})
			}},
		{"away, then another comes",
			func(a *fakeTunnel, _ func()) { a.setAway(true) },
			func(t *testing.T, table *route.Table, _ *fakeTunnel) {
				add(t, table, route.Entry{ID: "web", Tunnel: newTunnel("a")})
			}},
	} {
		start := func(t *testing.T) (*route.Table, *fakeTunnel) {
			table := newTable(t, route.Options{Hold: hold})
			a := newTunnel("a")
			remove := add(t, table, route.Entry{ID: "web", Tunnel: a})
			tt.leave(a, remove)
			synctest.Wait()
			return table, a
		}
		t.Run(tt.name+"/comes back", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				table, a := start(t)
				got := make(chan string, 1)
				go func() { got <- to(table, "/web") }()
				time.Sleep(hold - 1) // the bubble's clock
				synctest.Wait()
				if len(got) > 0 {
					t.Fatalf("did not wait: got %q", <-got)
				}
				tt.back(t, table, a)
				if g := <-got; g != "a/" {
					t.Errorf("got %q, want %q", g, "a/")
				}
				wantRoute(t, table, "/web", "a/")
			})
		})
		t.Run(tt.name+"/stays away", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				table, _ := start(t)
				begin := time.Now()
				wantRoute(t, table, "/web", "offline")
				if d := time.Since(begin); d != hold {
					t.Errorf("waited %v, want %v", d, hold)
				}
			})
		})
		t.Run(tt.name+"/visitor leaves", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				table, _ := start(t)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := table.Route(ctx, "/web"); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got error %v, want %v", err, context.DeadlineExceeded)
				}
				for _, n := range table.Snapshot() {
					if n.Waiting != 0 {
						t.Errorf("%s: got %d waiting, want 0", n.Key, n.Waiting)
					}
				}
			})
		})
	}
}

func TestNoHold(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{Hold: -1})
	a := newTunnel("a")
	a.setAway(true)
	remove := add(t, table, route.Entry{ID: "web", Tunnel: a})
	wantRoute(t, table, "/web", "offline")
	remove()
	wantRoute(t, table, "/web", "no route")
}

// Waiters are let through in the order in which they came, and all are.
func TestHoldOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const visitors = 20
		table := newTable(t, route.Options{})
		a, b := newTunnel("0"), newTunnel("1")
		a.setAway(true)
		b.setAway(true)
		for _, tun := range []*fakeTunnel{a, b} {
			add(t, table, route.Entry{ID: "web", Tunnel: tun})
		}
		var got [visitors]string
		var wg sync.WaitGroup
		for i := range visitors {
			wg.Go(func() { got[i] = to(table, "/web") })
			synctest.Wait() // it waits now
		}
		a.Close() // b takes them all
		b.setAway(false)
		wg.Wait()
		for i, g := range got {
			if g != "1/" {
				t.Errorf("visitor %d: got %q, want %q", i, g, "1/")
			}
		}
	})
}

func TestQueueFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{MaxHeld: 5, MaxHeldPerName: 3})
		tunnels := map[string]*fakeTunnel{}
		for _, id := range []string{"a", "b"} {
			tunnels[id] = newTunnel(id)
			tunnels[id].setAway(true)
			add(t, table, route.Entry{ID: tunnel.ID(id), Tunnel: tunnels[id]})
		}
		var wg sync.WaitGroup
		visit := func(key, want string) {
			wg.Go(func() { wantRoute(t, table, key, want) })
			synctest.Wait()
		}
		begin := time.Now()
		for range 3 {
			visit("/a", "a/")
		}
		wantRoute(t, table, "/a", "queue full") // of this name
		visit("/b", "offline")
		visit("/b", "offline")
		wantRoute(t, table, "/b", "queue full") // of the table
		if d := time.Since(begin); d != 0 {
			t.Errorf("turned away after %v, want at once", d)
		}
		tunnels["a"].setAway(false)
		wg.Wait()

		tunnels["a"].setAway(true) // the places are free again
		synctest.Wait()
		for range 3 {
			visit("/a", "offline")
		}
		wantRoute(t, table, "/a", "queue full")
		wg.Wait()
	})
}

// Names that were seen once do not stay for ever.
func TestForgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{Hold: 10 * time.Second})
		for i := range 1000 {
			tun := newTunnel("x")
			add(t, table, route.Entry{ID: tunnel.ID(fmt.Sprint("n", i)), Tunnel: tun, Hostnames: []string{fmt.Sprintf("h%d.org", i)}})
			tun.Close()
			if i%100 == 0 {
				time.Sleep(100 * time.Millisecond) // the bubble's clock
			}
		}
		synctest.Wait()
		if n := len(table.Snapshot()); n != 2000 {
			t.Errorf("got %d names, want 2000 that were seen", n)
		}
		time.Sleep(5 * time.Second)
		again := newTunnel("again")
		add(t, table, route.Entry{ID: "n0", Tunnel: again})
		go table.Route(t.Context(), "/n1") // waits until 15 s
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if got := table.Snapshot(); len(got) != 2 || got[0].Key != "/n0" || got[1].Key != "/n1" {
			t.Errorf("after the hold time: got %d names, want n0, which is back, and n1, which is waited for", len(got))
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := table.Snapshot(); len(got) != 1 {
			t.Errorf("at last: got %+v, want n0 alone", got)
		}
		again.Close()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := table.Snapshot(); len(got) != 0 {
			t.Errorf("in the end: got %+v, want nothing", got)
		}
	})
}

func TestCloseEndsWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{})
		a := newTunnel("a")
		a.setAway(true)
		remove := add(t, table, route.Entry{ID: "web", Tunnel: a})
		got := make(chan string, 1)
		go func() { got <- to(table, "/web") }()
		synctest.Wait()
		table.Close()
		table.Close()
		if g := <-got; g != "offline" {
			t.Errorf("got %q, want %q", g, "offline")
		}
		wantRoute(t, table, "/web", "offline")
		wantRoute(t, table, "/never-seen", "offline")
		remove()
		if _, err := table.Add(route.Entry{ID: "web", Tunnel: a}); !errors.Is(err, tunnel.ErrClosed) {
			t.Errorf("Add after Close: got error %v, want %v", err, tunnel.ErrClosed)
		}
	})
}

func TestWarmup(t *testing.T) {
	t.Parallel()
	const (
		warmup = 20 * time.Second
		hold   = 30 * time.Second
	)
	// bubble runs f with a new table and the time since it was made.
	bubble := func(name string, f func(t *testing.T, table *route.Table, age func() time.Duration)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				f(t, newTable(t, route.Options{Hold: hold, Warmup: warmup}), func() time.Duration { return time.Since(begin) })
				synctest.Wait()
			})
		})
	}
	for _, key := range []string{"/web", "web.example.com", ":2222"} {
		e := route.Entry{ID: "web", Owner: "o"}
		if key[0] == ':' {
			e.Port = 2222
		}
		bubble("appears "+key, func(t *testing.T, table *route.Table, age func() time.Duration) {
			got := make(chan string, 1)
			go func() { got <- to(table, key) }()
			time.Sleep(warmup - 1) // the bubble's clock
			synctest.Wait()
			if len(got) > 0 {
				t.Fatalf("did not wait: got %q", <-got)
			}
			e.Tunnel = newTunnel("a")
			add(t, table, e)
			if g := <-got; g != "a/" {
				t.Errorf("got %q, want %q", g, "a/")
			}
			if age() != warmup-1 {
				t.Errorf("got the tunnel after %v, want it at once", age())
			}
		})
		bubble("does not appear "+key, func(t *testing.T, table *route.Table, age func() time.Duration) {
			time.Sleep(warmup / 2)
			wantRoute(t, table, key, "no route")
			if age() != warmup {
				t.Errorf("waited until %v, want %v", age(), warmup)
			}
			wantRoute(t, table, key, "no route")
			if age() != warmup {
				t.Error("waited after the warm-up")
			}
			if s := table.Snapshot(); len(s) != 0 {
				t.Errorf("the table has %+v, want nothing", s)
			}
		})
	}
	bubble("what nobody can bind", func(t *testing.T, table *route.Table, age func() time.Duration) {
		for _, key := range []string{"/Web", "/favicon.ico", "/www", "/", "", ":", ":0", ":022", ":65536", ":http", "-x.example.com", "example.com", "a.web.example.com", "example.org", "10.0.0.1"} {
			wantRoute(t, table, key, "no route")
		}
		if age() != 0 {
			t.Errorf("waited %v, want no wait", age())
		}
	})
	bubble("visitor leaves", func(t *testing.T, table *route.Table, _ func() time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := table.Route(ctx, "/web"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v, want %v", err, context.DeadlineExceeded)
		}
		if s := table.Snapshot(); len(s) != 0 {
			t.Errorf("the table has %+v, want nothing", s)
		}
	})
	bubble("appears away", func(t *testing.T, table *route.Table, age func() time.Duration) {
		a := newTunnel("a")
		a.setAway(true)
		time.AfterFunc(time.Second, func() { table.Add(route.Entry{ID: "web", Tunnel: a}) })
		wantRoute(t, table, "/web", "offline")
		if age() != warmup+hold {
			t.Errorf("waited %v, want %v, since the name is known", age(), warmup+hold)
		}
	})
	bubble("appears for a port alone", func(t *testing.T, table *route.Table, age func() time.Duration) {
		time.AfterFunc(time.Second, func() {
			table.Add(route.Entry{ID: "web", Owner: "o", Tunnel: newTunnel("a"), Port: 22})
		})
		wantRoute(t, table, "/web", "no route")
		if age() != warmup {
			t.Errorf("waited %v, want %v", age(), warmup)
		}
		if _, err := table.Add(route.Entry{ID: "web", Owner: "other", Tunnel: newTunnel("b")}); err == nil {
			t.Error("somebody else could bind the id")
		}
	})
	bubble("waiters do not keep a name from its owner", func(t *testing.T, table *route.Table, _ func() time.Duration) {
		got := make(chan string, 2)
		go func() { got <- to(table, "/web") }()
		synctest.Wait()
		add(t, table, route.Entry{ID: "web", Owner: "o", Tunnel: newTunnel("a")})
		if g := <-got; g != "a/" {
			t.Errorf("got %q, want %q", g, "a/")
		}
	})
	bubble("places are bounded", func(t *testing.T, table *route.Table, _ func() time.Duration) {
		var wg sync.WaitGroup
		for i := range 1024 {
			wg.Go(func() { wantRoute(t, table, fmt.Sprint("/n", i), "no route") })
		}
		synctest.Wait()
		wantRoute(t, table, "/one-more", "queue full")
		if n := len(table.Snapshot()); n != 1024 {
			t.Errorf("the table has %d names, want 1024", n)
		}
		wg.Wait()
	})
}
