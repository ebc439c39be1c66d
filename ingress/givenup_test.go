package ingress

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// A chooser leads visitors to its targets in order, and to the first again when
// all were tried.
type chooser struct {
	targets []Target
	asked   chan Ask
}

func (c *chooser) Route(ctx context.Context, key string) (Target, error) {
	return c.RouteFor(ctx, key, Ask{})
}

func (c *chooser) RouteFor(_ context.Context, _ string, ask Ask) (Target, error) {
	ask.Tried = slices.Clone(ask.Tried)
	select {
	case c.asked <- ask:
	default:
	}
	for _, to := range c.targets {
		if !slices.Contains(ask.Tried, to.Tunnel) {
			return to, nil
		}
	}
	return c.targets[0], nil
}

// newChooser returns a chooser for the tunnels of agents. giveUp ends the first
// one's Alive.
func newChooser(t *testing.T, agents ...*scriptedAgent) (c *chooser, giveUp func()) {
	t.Helper()
	c = &chooser{asked: make(chan Ask, 16)}
	for i, a := range agents {
		m, l := tunneltest.NewMemory(tunnel.ID("web"))
		t.Cleanup(func() { m.Close() })
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		if i == 0 {
			giveUp = cancel
		}
		go a.serve(l)
		c.targets = append(c.targets, Target{Tunnel: m, Alive: ctx})
	}
	return c, giveUp
}

// A silent agent accepts nothing, or takes requests and never answers.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	const get, post = "GET /a HTTP/1.1\r\nHost: web\r\n\r\n", "POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc"
	for _, tt := range []struct {
		name, send, script string
	}{
		{"request that may be sent twice, taken", get, "silent"},
		{"request that may be sent twice, not taken", get, "deaf"},
		{"request that may be sent once, not taken", post, "deaf"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bad, good := &scriptedAgent{script: []string{tt.script}}, &scriptedAgent{script: []string{"ok"}}
			c, giveUp := newChooser(t, bad, good)
			_, addr := startHTTP(t, HTTPOptions{Router: c})
			conn := dial(t, addr)
			conn.send(tt.send)
			<-c.asked
			bad.waitOpened(t)
			giveUp()
			method, _, _ := strings.Cut(tt.send, " ")
			if resp, body := conn.response(method); resp.StatusCode != 200 || body != "ok" {
				t.Errorf("got %d %q, want 200 ok", resp.StatusCode, body)
			}
			if ask := <-c.asked; len(ask.Tried) != 1 || ask.Tried[0] != c.targets[0].Tunnel || ask.Visitor != netip.MustParseAddr("127.0.0.1") {
				t.Errorf("the router was asked %+v, want the visitor and the tunnel that was tried", ask)
			}
		})
		t.Run(tt.name+", with net/http", func(t *testing.T) {
			t.Parallel()
			bad, good := &scriptedAgent{script: []string{tt.script}}, &scriptedAgent{script: []string{"ok"}}
			c, giveUp := newChooser(t, bad, good)
			h := NewHTTP(HTTPOptions{Router: c})
			t.Cleanup(func() { h.Close() })
			w, done := httptest.NewRecorder(), make(chan struct{})
			go func() {
				defer close(done)
				r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(tt.send)))
				if err != nil {
					t.Error(err)
					return
				}
				h.ServeHTTP(w, r)
			}()
			<-c.asked
			bad.waitOpened(t)
			giveUp()
			<-done
			if w.Code != 200 || w.Body.String() != "ok" {
				t.Errorf("got %d %q, want 200 ok", w.Code, w.Body)
			}
			_, body, _ := strings.Cut(tt.send, "\r\n\r\n")
			for _, d := range good.deliveries {
				if !strings.HasSuffix(d, body) {
					t.Errorf("the other agent got %q, want the body %q", d, body)
				}
			}
		})
	}
}

// What was delivered and may have been carried out is not sent to another agent.
func TestGivenUpAfterDelivery(t *testing.T) {
	t.Parallel()
	bad, good := &scriptedAgent{script: []string{"silent"}}, &scriptedAgent{script: []string{"ok"}}
	c, giveUp := newChooser(t, bad, good)
	_, addr := startHTTP(t, HTTPOptions{Router: c})
	conn := dial(t, addr)
	conn.send("POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc")
	bad.waitDelivered(t)
	giveUp()
	c.targets[0].Tunnel.Close()
	if resp, _ := conn.response("POST"); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("got %d, want 502", resp.StatusCode)
	}
	good.mu.Lock()
	defer good.mu.Unlock()
	if good.opened != 0 {
		t.Errorf("another agent got %q, want nothing", good.deliveries)
	}
}

// Nor does package net/http send it to another agent.
func TestGivenUpAfterDeliveryWithNetHTTP(t *testing.T) {
	t.Parallel()
	bad, good := &scriptedAgent{script: []string{"silent"}}, &scriptedAgent{script: []string{"ok"}}
	c, giveUp := newChooser(t, bad, good)
	h := NewHTTP(HTTPOptions{Router: c})
	t.Cleanup(func() { h.Close() })
	w, done := httptest.NewRecorder(), make(chan struct{})
	go func() {
		defer close(done)
		h.ServeHTTP(w, httptest.NewRequest("POST", "http://web/a", strings.NewReader("abc")))
	}()
	bad.waitDelivered(t)
	giveUp()
	c.targets[0].Tunnel.Close()
	<-done
	if w.Code != http.StatusBadGateway {
		t.Errorf("got %d, want 502", w.Code)
	}
	good.mu.Lock()
	defer good.mu.Unlock()
	if good.opened != 0 {
		t.Errorf("another agent got %q, want nothing", good.deliveries)
	}
}

// A visitor whose bytes are not looked at goes from one agent to the next as long
// as nothing of it was sent.
func TestOpenerGoesOn(t *testing.T) {
	t.Parallel()
	deaf, refusing, good := &scriptedAgent{script: []string{"deaf"}}, &scriptedAgent{script: []string{"refuse:3"}}, &scriptedAgent{script: []string{"ok"}}
	c, giveUp := newChooser(t, deaf, refusing, good)
	var counters streamCounters
	o := opener{c, nil, patience, &counters}
	go func() {
		deaf.waitOpened(t)
		giveUp()
	}()
	visitor := netip.MustParseAddrPort("192.0.2.7:1234")
	stream, _, _, err := o.open(t.Context(), ":22", tunnel.StreamInfo{Protocol: "tcp", Visitor: visitor})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	stream.SetDeadline(time.Now().Add(patience))
	io.WriteString(stream, "GET / HTTP/1.1\r\n\r\n")
	if b := make([]byte, 8); true {
		if _, err := io.ReadFull(stream, b); err != nil || string(b) != "HTTP/1.1" {
			t.Errorf("got %q, %v, want an answer of the third", b, err)
		}
	}
	if ask := <-c.asked; ask.Visitor != visitor.Addr() {
		t.Errorf("the router was told of %v, want %v", ask.Visitor, visitor.Addr())
	}

	// When all refuse, the visitor is told what the last one said.
	one, two := &scriptedAgent{script: []string{"refuse:3"}}, &scriptedAgent{script: []string{"refuse:3"}}
	c, _ = newChooser(t, one, two)
	o.router = c
	if _, _, _, err := o.open(t.Context(), ":22", tunnel.StreamInfo{Protocol: "tcp", Visitor: visitor}); explain(err) != probRefused {
		t.Errorf("all refuse: got %v, want that the upstream refused", err)
	}
}

// waitOpened waits until the agent was asked for a stream.
func (a *scriptedAgent) waitOpened(t *testing.T) { a.wait(t, func() bool { return a.opened > 0 }) }

// waitDelivered waits until the agent has got a request.
func (a *scriptedAgent) waitDelivered(t *testing.T) {
	a.wait(t, func() bool { return len(a.deliveries) > 0 })
}

func (a *scriptedAgent) wait(t *testing.T, ready func() bool) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		a.mu.Lock()
		ok := ready()
		a.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			t.Error("the agent was not asked")
			return
		}
	}
}
