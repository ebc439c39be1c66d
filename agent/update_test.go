package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
)

// answering is an upstream in the program that answers with a text.
func answering(text string) *agent.Upstream {
	return agent.HandlerUpstream(text, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, text)
	}))
}

// update changes r's tunnels, and waits until the state shows n of them.
func (r *running) update(tunnels ...agent.Tunnel) agent.State {
	r.t.Helper()
	if err := r.agent.Update(tunnels); err != nil {
		r.t.Fatal(err)
	}
	return r.until(agent.Connected)
}

// restart replaces the server by another one, without the sessions of the first.
func (f *fixture) restart(r *running) {
	f.stop()
	r.until(agent.Reconnecting)
	f.start()
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stays := agent.Tunnel{ID: "stays", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))}
	goes := agent.Tunnel{ID: "goes", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))}
	r := run(t, f.options(stays, goes, agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: answering("old")}))
	s := r.until(agent.Connected)
	c1, c2 := f.visit(s.Bound[0].Port), f.visit(s.Bound[1].Port)
	echo(t, c1, "before")
	echo(t, c2, "before")
	f.want("/web/", "old")

	web := agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: answering("new")}
	later := agent.Tunnel{ID: "later", Kind: dialect.HTTP, Upstream: answering("later")}
	s2 := r.update(later, stays, web)
	if len(s2.Tunnels) != 3 || s2.Tunnels[0].ID != "later" || s2.Bound[1].Port != s.Bound[0].Port {
		t.Errorf("after the update: %+v, bound at %+v; want what was given, and the same port", s2.Tunnels, s2.Bound)
	}
	for i, err := range s2.Errs {
		if err != nil {
			t.Errorf("%s: %v", s2.Tunnels[i].ID, err)
		}
	}
	f.want("/web/", "new")
	f.want("/later/", "later")
	f.hello(s.Bound[0].Port)
	echo(t, c1, "untouched")
	echo(t, c2, "of a tunnel that has gone")
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Bound[1].Port)); err == nil {
		c.Close()
		t.Errorf("port %d of a tunnel that has gone is open", s.Bound[1].Port)
	}

	// It counts for the sessions to come.
	c1.Close()
	c2.Close()
	f.stop()
	r.until(agent.Reconnecting)
	if err := r.agent.Update([]agent.Tunnel{goes}); err != nil {
		t.Fatal(err)
	}
	f.start()
	s3 := r.until(agent.Connected)
	if len(s3.Bound) != 1 || s3.Bound[0].Port != s.Bound[1].Port {
		t.Errorf("bound at %+v, want the port %d that it had", s3.Bound, s.Bound[1].Port)
	}
	f.hello(s3.Bound[0].Port)
}

// What a wrong update says, and that it changes nothing.
func TestUpdateWrong(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	up := answering("here")
	r := run(t, f.options(agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: up}))
	r.until(agent.Connected)
	for _, tt := range []struct {
		name    string
		tunnels []agent.Tunnel
		want    string
	}{
		{"none", nil, "no tunnels"},
		{"malformed id", []agent.Tunnel{{ID: "other", Upstream: up}, {ID: "Other", Upstream: up}}, "tunnel 2"},
		{"no upstream", []agent.Tunnel{{ID: "other", Kind: dialect.HTTP}}, "no upstream"},
	} {
		if err := r.agent.Update(tt.tunnels); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	f.want("/web/", "here")
	select {
	case s := <-r.states:
		t.Errorf("state %+v after a wrong update, want none", s)
	default:
	}
}

// Visitors do not notice when the upstream of their tunnel changes.
func TestUpdateUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tun := func(n int) agent.Tunnel {
		return agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: answering(fmt.Sprint("number ", n))}
	}
	r := run(t, f.options(tun(0)))
	r.until(agent.Connected)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if status, code, body := f.get("/web/"); status != 200 || !strings.HasPrefix(body, "number ") {
					t.Errorf("GET /web/: %d %s, %q; want 200", status, code, body)
					return
				}
			}
		})
	}
	for n := 1; n <= 5; n++ {
		r.update(tun(n))
		f.want("/web/", fmt.Sprint("number ", n))
	}
	stop()
	wg.Wait()
}

// A tunnel that is refused does not disturb the others, and is tried again.
func TestUpdateRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	taken := f.ports.First
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", taken))
	if err != nil {
		t.Skipf("port of the test is taken: %v", err)
	}
	web := agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: answering("web")}
	r := run(t, f.options(web))
	r.until(agent.Connected)
	s := r.update(agent.Tunnel{ID: "echo", Kind: dialect.TCP, Port: taken, Upstream: upstream(t, echoUpstream(t))}, web)
	be, _ := errors.AsType[*dialect.BindError](s.Errs[0])
	if be == nil || be.Code != dialect.BindPortInUse || len(s.Bound[0].URLs) != 0 || s.Errs[1] != nil {
		t.Errorf("errors %v, bound at %+v; want port-in-use for the first alone", s.Errs, s.Bound)
	}
	f.want("/web/", "web")

	// At the start of a session too.
	f.restart(r)
	if s := r.until(agent.Connected); s.Errs[0] == nil || s.Errs[1] != nil {
		t.Errorf("with a new session: %v, want an error for the first alone", s.Errs)
	}
	f.want("/web/", "web")
	ln.Close()
	if s := r.until(agent.Connected); s.Errs[0] != nil || s.Bound[0].Port != taken {
		t.Errorf("when the port is free: %v, bound at %+v", s.Errs, s.Bound)
	}
	f.hello(taken)
}

// A forbidden tunnel ends an agent that has just been started, and not one that
// has run.
func TestUpdateForbidden(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	mine := agent.Tunnel{ID: "mine", Kind: dialect.HTTP, Upstream: answering("mine")}
	yours := agent.Tunnel{ID: "yours", Kind: dialect.HTTP, Upstream: answering("yours")}
	opts := f.options(mine)
	opts.Token = func() (string, error) { return f.token(time.Hour, auth.Scope{IDs: []string{"mine"}}), nil }
	r := run(t, opts)
	r.until(agent.Connected)
	s := r.update(mine, yours)
	be, _ := errors.AsType[*dialect.BindError](s.Errs[1])
	if s.Errs[0] != nil || be == nil || be.Code != dialect.BindForbidden {
		t.Errorf("errors %v, want forbidden for the second alone", s.Errs)
	}
	f.want("/mine/", "mine")
	f.restart(r)
	if s := r.until(agent.Connected); s.Errs[1] == nil {
		t.Error("the second is bound")
	}
}

// Two tunnels that change places: each has what the other had.
func TestUpdateSwaps(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p1, p2 := f.ports.First, f.ports.Last
	up1, up2 := answering("one"), answering("two")
	r := run(t, f.options(
		agent.Tunnel{ID: "one", Kind: dialect.TCP, Port: p1, Upstream: up1},
		agent.Tunnel{ID: "two", Kind: dialect.TCP, Port: p2, Upstream: up2},
	))
	r.until(agent.Connected)
	s := r.update(
		agent.Tunnel{ID: "one", Kind: dialect.TCP, Port: p2, Upstream: up1},
		agent.Tunnel{ID: "two", Kind: dialect.TCP, Port: p1, Upstream: up2},
	)
	if s.Errs[0] != nil || s.Errs[1] != nil || s.Bound[0].Port != p2 || s.Bound[1].Port != p1 {
		t.Errorf("errors %v, bound at %+v; want them swapped", s.Errs, s.Bound)
	}
}

// Drain lets streams finish, takes no new ones, and ends Run.
func TestDrainAgent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r := run(t, f.options(agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))}))
	port := r.until(agent.Connected).Bound[0].Port
	c := f.visit(port)
	echo(t, c, "before")
	r.agent.Drain()
	for { // until the port is closed
		d, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			break
		}
		d.Close()
	}
	echo(t, c, "after")
	select {
	case err := <-r.done:
		t.Fatalf("Run: %v, with an open stream", err)
	default:
	}
	c.Close()
	if err := r.end(); err != nil {
		t.Errorf("Run: %v, want nil", err)
	}

	// And without a server.
	f.stop()
	r = run(t, f.options(agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: answering("x")}))
	r.until(agent.Reconnecting)
	r.agent.Drain()
	r.agent.Drain()
	if err := r.end(); err != nil {
		t.Errorf("Run without a server: %v, want nil", err)
	}
}

// An update while the session is between two carriers comes with the next.
func TestUpdateBetweenCarriers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	echoing := agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))}
	r := run(t, f.options(echoing))
	c := f.visit(r.until(agent.Connected).Bound[0].Port)
	echo(t, c, "before")
	f.mu.Lock()
	addr := f.dial
	f.dial = "127.0.0.1:1"
	f.mu.Unlock()
	f.cut()
	r.until(agent.Reconnecting)
	if err := r.agent.Update([]agent.Tunnel{echoing, {ID: "web", Kind: dialect.HTTP, Upstream: answering("web")}}); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.dial = addr
	f.mu.Unlock()
	for s := r.until(agent.Connected); len(s.Tunnels) != 2; s = r.until(agent.Connected) {
	}
	f.want("/web/", "web")
	echo(t, c, "after")
}
