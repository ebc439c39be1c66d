package route_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"adit/route"
)

// A name stands for tunnels of one kind.
func TestKinds(t *testing.T) {
	t.Parallel()
	web := route.Entry{ID: "web", Hostnames: []string{"www.example.org"}, Instance: "1"}
	for _, tc := range []struct {
		name         string
		first        route.Entry
		second       route.Entry
		sameTunnel   bool
		wantConflict string // key; empty if the second can be added
	}{
		{"the same", web, route.Entry{ID: "web", Instance: "2"}, false, ""},
		{"the ID's other kind", web, route.Entry{ID: "web", TLS: true, Instance: "2"}, false, "/web"},
		{"the hostname's other kind", route.Entry{ID: "web", TLS: true, Hostnames: []string{"www.example.org"}},
			route.Entry{ID: "web", Hostnames: []string{"www.example.org"}}, false, "/web"},
		{"the agent that came back", web, route.Entry{ID: "web", TLS: true, Instance: "1"}, false, ""},
		{"the agent itself", web, route.Entry{ID: "web", TLS: true, Instance: "1"}, true, "/web"},
		{"a port beside it", web, route.Entry{ID: "web", Port: 2222, Instance: "1"}, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			table := newTable(t, route.Options{Domain: "example.com"})
			tc.first.Tunnel, tc.second.Tunnel = newTunnel("a"), newTunnel("b")
			if tc.sameTunnel {
				tc.second.Tunnel = tc.first.Tunnel
			}
			add(t, table, tc.first)
			_, err := table.Add(tc.second)
			conflict, _ := errors.AsType[*route.KindError](err)
			switch {
			case tc.wantConflict == "" && err != nil:
				t.Errorf("got %v, want that it is added", err)
			case tc.wantConflict != "" && (conflict == nil || conflict.Key != tc.wantConflict || conflict.TLS != tc.first.TLS):
				t.Errorf("got %v, want a conflict over %q", err, tc.wantConflict)
			}
		})
	}
}

// What a name stands for is known as long as the name is.
func TestKindIsRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{Domain: "example.com", Hold: time.Minute})
		want := func(when, key string, wantTLS, wantKnown bool) {
			t.Helper()
			if tls, known := table.TLS(t.Context(), key); tls != wantTLS || known != wantKnown {
				t.Errorf("%s: %s: got %v, %v, want %v, %v", when, key, tls, known, wantTLS, wantKnown)
			}
		}
		want("before", "db.example.com", false, false)
		remove := add(t, table, route.Entry{ID: "db", Hostnames: []string{"db.example.org"}, TLS: true, Tunnel: newTunnel("a")})
		add(t, table, route.Entry{ID: "web", Tunnel: newTunnel("b")})
		add(t, table, route.Entry{ID: "ssh", Port: 22, Tunnel: newTunnel("c")})
		for _, key := range []string{"db.example.com", "db.example.org", "/db"} {
			want("bound", key, true, true)
		}
		want("bound", "web.example.com", false, true)
		want("bound on a port", "ssh.example.com", false, false)
		remove()
		time.Sleep(59 * time.Second)
		want("kept", "db.example.org", true, true)
		time.Sleep(2 * time.Second)
		want("forgotten", "db.example.org", false, false)
	})
}

// In the warm-up nobody is told that a name is not known.
func TestKindInWarmup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{Domain: "example.com", Warmup: 10 * time.Second, WarmHostnames: true})
		begin := time.Now()
		time.AfterFunc(3*time.Second, func() {
			add(t, table, route.Entry{ID: "db", Hostnames: []string{"db.example.org"}, TLS: true, Tunnel: newTunnel("a")})
		})
		if tls, known := table.TLS(t.Context(), "db.example.org"); !tls || !known || time.Since(begin) != 3*time.Second {
			t.Errorf("got %v, %v after %v, want true, true after 3s", tls, known, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if tls, known := table.TLS(ctx, "other.example.com"); tls || known || time.Since(begin) != 4*time.Second {
			t.Errorf("bounded: got %v, %v after %v, want false, false after 4s", tls, known, time.Since(begin))
		}
		for _, key := range []string{"localhost", "10.0.0.1", "[::1]", "a/b.c", ""} {
			if _, known := table.TLS(t.Context(), key); known || time.Since(begin) != 4*time.Second {
				t.Errorf("%q: waited %v, want no wait", key, time.Since(begin)-4*time.Second)
			}
		}
		if _, known := table.TLS(t.Context(), "other.example.com"); known || time.Since(begin) != 10*time.Second {
			t.Errorf("got %v after %v, want false after the warm-up", known, time.Since(begin))
		}
	})
}
