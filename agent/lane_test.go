package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/forward"
)

// untilUp waits until so many connections are up.
func (r *running) untilUp(n int) agent.State {
	r.t.Helper()
	for {
		if s := r.until(agent.Connected); s.Connections == n {
			return s
		}
	}
}

// TestConnections has several sessions under one name, which share the visitors,
// TCP port and all, come back after a restart, and are taken over together.
func TestConnections(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	defer func() { f.stop() }()
	opts := f.options(
		agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: upstream(t, webUpstream(t).URL)},
		agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))},
	)
	opts.Connections = 3
	r := run(t, opts)
	port := r.untilUp(3).Bound[1].Port
	for range 6 {
		f.hello(port)
	}
	f.want("/web/", "you asked for")

	f.stop()
	r.until(agent.Reconnecting)
	f.start()
	if got := r.untilUp(3).Bound[1].Port; got != port {
		t.Errorf("port %d after a restart, want %d as before", got, port)
	}
	for range 6 {
		f.hello(port)
	}

	web2 := agent.Tunnel{ID: "web2", Kind: dialect.HTTP, Upstream: upstream(t, webUpstream(t).URL)}
	if err := r.agent.Update([]agent.Tunnel{opts.Tunnels[1], web2}); err != nil {
		t.Fatal(err)
	}
	for r.until(agent.Connected).Tunnels[0].ID != "echo" {
	}
	for range 6 {
		f.want("/web2/", "you asked for")
		f.hello(port)
	}

	// Another process of the same agent takes over all of them, though it has
	// fewer.
	opts.Tunnels, opts.Connections = []agent.Tunnel{opts.Tunnels[1], web2}, 2
	opts.Instance = "one"
	old := run(t, opts)
	old.untilUp(2)
	again := opts
	again.Connections = 1
	young := run(t, again)
	young.until(agent.Connected)
	if err := old.end(); !errors.Is(err, agent.ErrSuperseded) {
		t.Errorf("Run of the older one: %v, want ErrSuperseded", err)
	}
	select {
	case err := <-r.done:
		t.Errorf("Run beside another instance: %v, want it to go on", err)
	case err := <-young.done:
		t.Errorf("Run of the younger one: %v, want it to go on", err)
	default:
	}
}

func TestConnectionsOptions(t *testing.T) {
	t.Parallel()
	for _, n := range []int{-1, 17} {
		f := &fixture{secret: auth.NewSecret(), addr: "127.0.0.1:1"}
		opts := f.options(agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: upstream(t, "80")})
		opts.Connections = n
		if _, err := agent.New(opts); err == nil {
			t.Errorf("New with %d connections succeeded", n)
		}
	}
}

// A freezer is on the way between agents and a server. Its conns can be stopped.
type freezer struct {
	mu    sync.Mutex
	gates []*sync.RWMutex // one for each conn; held while it is frozen
	addr  string
}

func newFreezer(t *testing.T, to string) *freezer {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &freezer{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	var conns []net.Conn
	wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			gate := new(sync.RWMutex)
			z.mu.Lock()
			z.gates = append(z.gates, gate)
			conns = append(conns, near, far)
			z.mu.Unlock()
			wg.Go(func() { z.copy(near, far, gate) })
			wg.Go(func() { z.copy(far, near, gate) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		z.mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		z.mu.Unlock()
		wg.Wait()
	})
	return z
}

func (z *freezer) copy(to, from net.Conn, gate *sync.RWMutex) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		gate.RLock()
		_, werr := to.Write(buf[:n])
		gate.RUnlock()
		if err != nil || werr != nil {
			return
		}
	}
}

// freeze stops the conn with that number, until the function is called that it
// returns.
func (z *freezer) freeze(n int) func() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.gates[n].Lock()
	return z.gates[n].Unlock
}

// TestFrozenConnection stops one of several connections: what is new goes over
// the others, both ways.
func TestFrozenConnection(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.stop()
	rule, err := auth.ParseForwardRule("127.0.0.1:*")
	if err != nil {
		t.Fatal(err)
	}
	f.forward = []auth.ForwardRule{rule}
	f.start()
	defer func() { f.stop() }()
	z := newFreezer(t, f.addr)
	f.mu.Lock()
	f.dial = z.addr
	f.mu.Unlock()
	target := echoUpstream(t)
	opts := f.options(agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, target)})
	opts.Connections, opts.Forwards = 3, true
	r := run(t, opts)
	port := r.untilUp(3).Bound[0].Port

	for _, frozen := range []int{1} {
		t.Run(fmt.Sprint(frozen), func(t *testing.T) {
			thaw := z.freeze(frozen)
			defer thaw()
			// The first streams may be on it: they wait, and show that it is stuck.
			for range 3 {
				c := f.visit(port)
				io.WriteString(c, "x")
			}
			at, err := forward.ParseTarget(target)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var opening sync.WaitGroup
			for range 3 {
				opening.Go(func() {
					if c, err := r.agent.OpenTarget(ctx, at); err == nil {
						c.Close()
					}
				})
			}
			defer opening.Wait()
			stuck := time.Now()
			for time.Since(stuck) < 1500*time.Millisecond {
				c := f.visit(port)
				c.SetDeadline(time.Now().Add(100 * time.Millisecond))
				io.WriteString(c, "x")
				c.Read(make([]byte, 1))
			}
			for range 10 {
				began := time.Now()
				c := f.visit(port)
				echo(t, c, "hello")
				c.Close()
				o, err := r.agent.OpenTarget(ctx, at)
				if err != nil {
					t.Fatal(err)
				}
				echo(t, o, "hello")
				o.Close()
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("a stream took %v beside a frozen connection", took)
				}
			}
		})
	}
}
