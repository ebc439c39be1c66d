package route_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"adit/route"
	"adit/tunnel"
)

func TestBlock(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{Domain: "example.com"})
	web, app, db := newTunnel("web"), newTunnel("app"), newTunnel("db")
	add(t, table, route.Entry{ID: "web", Tunnel: web, Owner: "o", Hostnames: []string{"shop.test"}})
	add(t, table, route.Entry{ID: "web", Tunnel: db, Owner: "o", Port: 22})
	add(t, table, route.Entry{ID: "app", Tunnel: app, Owner: "o", Hostnames: []string{"app.test", "blog.test"}})

	if got := table.Block("web"); len(got) != 2 || got[0] != tunnel.Tunnel(web) && got[1] != tunnel.Tunnel(web) {
		t.Errorf("got the tunnels %v, want both that have the ID", got)
	}
	if got := table.Block("blog.test"); len(got) != 1 || got[0] != tunnel.Tunnel(app) {
		t.Errorf("got the tunnels %v, want the one that has the hostname", got)
	}
	check := func(key string, blocked bool) {
		t.Helper()
		_, err := table.Route(t.Context(), key)
		if got := errors.Is(err, tunnel.ErrBlocked); got != blocked {
			t.Errorf("%s: got %v, want blocked %v", key, err, blocked)
		}
	}
	for _, key := range []string{"/web", "web.example.com", "shop.test", ":22", "blog.test"} {
		check(key, true)
	}
	for _, key := range []string{"/app", "app.example.com", "app.test"} {
		check(key, false)
	}
	for _, e := range []route.Entry{
		{ID: "web", Tunnel: newTunnel("new"), Owner: "other"},
		{ID: "web", Tunnel: newTunnel("new"), Owner: "o", Port: 23},
		{ID: "new", Tunnel: newTunnel("new"), Owner: "o", Hostnames: []string{"fine.test", "blog.test"}},
	} {
		var be *route.BlockedError
		if _, err := table.Add(e); !errors.As(err, &be) {
			t.Errorf("add %+v: got %v, want a *BlockedError", e, err)
		}
	}
	if _, err := table.Route(t.Context(), "fine.test"); !errors.Is(err, tunnel.ErrNoRoute) {
		t.Errorf("an entry that was refused: got %v, want nothing of it", err)
	}

	table.Unblock("web")
	table.Unblock("blog.test")
	for _, key := range []string{"/web", "shop.test", ":22", "blog.test"} {
		check(key, false)
	}
}

// Who waits for a name that is blocked is told at once.
// A name is blocked in all spellings: IDs of some dialects have capitals, and
// whoever takes one down may write a hostname with some.
func TestBlockFoldsCase(t *testing.T) {
	t.Parallel()
	table := newTable(t, route.Options{Domain: "example.com"})
	task := newTunnel("Task_1")
	add(t, table, route.Entry{ID: "Task_1", Tunnel: task, Owner: "o"})
	add(t, table, route.Entry{ID: "web", Tunnel: newTunnel("web"), Owner: "o", Hostnames: []string{"shop.test"}})
	if got := table.Block("tASK_1"); len(got) != 1 || got[0] != tunnel.Tunnel(task) {
		t.Errorf("got the tunnels %v, want the one that has the ID in another spelling", got)
	}
	table.Block("Shop.TEST")
	for _, key := range []string{"/Task_1", "/task_1", "shop.test"} {
		if _, err := table.Route(t.Context(), key); !errors.Is(err, tunnel.ErrBlocked) {
			t.Errorf("%s: got %v, want it blocked", key, err)
		}
	}
	if _, err := table.Add(route.Entry{ID: "TASK_1", Tunnel: newTunnel("new"), Owner: "o"}); !errors.Is(err, tunnel.ErrBlocked) {
		t.Errorf("add of another spelling: got %v, want it blocked", err)
	}
	table.Unblock("TASK_1")
	table.Unblock("SHOP.test")
	for _, key := range []string{"/Task_1", "shop.test"} {
		if _, err := table.Route(t.Context(), key); errors.Is(err, tunnel.ErrBlocked) {
			t.Errorf("%s: got %v after it was unblocked", key, err)
		}
	}
}

func TestBlockEndsWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, route.Options{})
		away := newTunnel("web")
		away.setAway(true)
		add(t, table, route.Entry{ID: "web", Tunnel: away, Owner: "o"})
		ended := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := table.Route(context.Background(), "/web")
				ended <- err
			}()
		}
		synctest.Wait()
		if n := table.Stats().Waiting; n != 2 {
			t.Fatalf("%d wait, want 2", n)
		}
		table.Block("web")
		for range 2 {
			if err := <-ended; !errors.Is(err, tunnel.ErrBlocked) {
				t.Errorf("got %v, want %v", err, tunnel.ErrBlocked)
			}
		}
		if n := table.Stats().Waiting; n != 0 {
			t.Errorf("%d wait, want 0", n)
		}
	})
}
