package ingress

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"adit/internal/memnet"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// A scriptedAgent plays what comes with each stream in turn: "close" after the
// request was read, "refuse:" and a code, or "ok". The last one repeats.
type scriptedAgent struct {
	mu         sync.Mutex
	script     []string
	deliveries []string // request lines, with the body
	opened     int
}

func (a *scriptedAgent) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		a.opened++
		act := a.script[0]
		if len(a.script) > 1 {
			a.script = a.script[1:]
		}
		a.mu.Unlock()
		var code tunnel.RefuseCode
		if _, err := fmt.Sscanf(act, "refuse:%d", &code); err == nil {
			c.(tunnel.Incoming).Refuse(code, "no")
			continue
		}
		if act == "deaf" { // it does not even accept
			continue
		}
		c.(tunnel.Incoming).Accept()
		go a.answer(c, act)
	}
}

// hasRequest reports whether b has the head of a request, and what belongs to it
// if that is short.
func hasRequest(b []byte) bool {
	head, body, ok := strings.Cut(string(b), "\r\n\r\n")
	_, rest, _ := strings.Cut(head, "Content-Length: ")
	var length int
	fmt.Sscan(rest, &length)
	return ok && (len(body) >= length || length > 1000)
}

func (a *scriptedAgent) answer(c net.Conn, act string) {
	defer c.Close()
	buf := make([]byte, 64<<10)
	for {
		n := 0
		for !hasRequest(buf[:n]) {
			m, err := c.Read(buf[n:])
			if err != nil {
				return
			}
			n += m
		}
		a.mu.Lock()
		line, _, _ := strings.Cut(string(buf[:n]), "\r\n")
		_, body, _ := strings.Cut(string(buf[:n]), "\r\n\r\n")
		a.deliveries = append(a.deliveries, strings.TrimSuffix(line, " HTTP/1.1")+body)
		a.mu.Unlock()
		switch act {
		case "close":
			return
		case "silent":
			io.Copy(io.Discard, c)
			return
		case "half":
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			return
		case "once": // answers and then closes an idle conn
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			return
		case "reset":
			c.(tunnel.Resetter).Reset(tunnel.ResetUpstream, "reset")
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	const get, post = "GET /a HTTP/1.1\r\nHost: web\r\n\r\n", "POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc"
	const put = "PUT /a HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc"
	// Streaming bodies are longer than what is read with the head.
	long := strings.Repeat("x", 100000)
	for _, tt := range []struct {
		name       string
		send       string
		script     []string
		status     int
		code       string
		opened     int
		deliveries int
	}{
		{"idempotent", get, []string{"close", "ok"}, 200, "", 2, 2},
		{"idempotent after a reset", get, []string{"reset", "ok"}, 200, "", 2, 2},
		{"idempotent with body", put, []string{"close", "ok"}, 200, "", 2, 2},
		{"no more than three times", get, []string{"close"}, 502, "upstream-closed", 3, 3},
		{"not idempotent", post, []string{"close", "ok"}, 502, "upstream-closed", 1, 1},
		{"not after a first part", get, []string{"half", "ok"}, 502, "upstream-closed", 1, 1},
		{"refused by the only tunnel", get, []string{"refuse:3"}, 502, "upstream-refused", 1, 0},
		{"refused, not idempotent", post, []string{"refuse:3"}, 502, "upstream-refused", 1, 0},
		{"dial timed out", get, []string{"refuse:4"}, 504, "upstream-timeout", 1, 0},
		{"unknown service", get, []string{"refuse:2"}, 502, "unknown-service", 1, 0},
		{"forbidden", get, []string{"refuse:5"}, 403, "forbidden", 1, 0},
		{"busy", get, []string{"refuse:6"}, 503, "busy", 1, 0},
		{"draining", get, []string{"refuse:7"}, 503, "draining", 1, 0},
		{"agent failed", get, []string{"refuse:1"}, 502, "agent-failed", 1, 0},
		{"long body that was read", "PUT /a HTTP/1.1\r\nHost: web\r\nContent-Length: 100000\r\n\r\n" + long, []string{"close", "ok"}, 502, "upstream-closed", 1, 1},
		{"long body, refused", "POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 100000\r\n\r\n" + long, []string{"refuse:3"}, 502, "upstream-refused", 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, l := tunneltest.NewMemory("web")
			defer m.Close()
			a := &scriptedAgent{script: tt.script}
			go a.serve(l)
			_, addr := startHTTP(t, HTTPOptions{Router: always(m)})
			c := dial(t, addr)
			go io.WriteString(c.Conn, tt.send)
			for {
				resp, body := c.response("GET")
				if resp.StatusCode == 100 {
					continue
				}
				if resp.StatusCode != tt.status || resp.Header.Get("Adit-Error") != tt.code {
					t.Errorf("got %d %s %q, want %d %s", resp.StatusCode, resp.Header.Get("Adit-Error"), body, tt.status, tt.code)
				}
				break
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.opened != tt.opened || len(a.deliveries) != tt.deliveries {
				t.Errorf("%d streams opened, %.40q delivered; want %d and %d", a.opened, a.deliveries, tt.opened, tt.deliveries)
			}
		})
	}
}

// TestRetryOnAnotherTunnel has one tunnel that refuses or has ended, and one
// that works.
func TestRetryOnAnotherTunnel(t *testing.T) {
	t.Parallel()
	for _, script := range []string{"refuse:3", "refuse:7", "closed"} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			bad, badL := tunneltest.NewMemory("web")
			defer bad.Close()
			good, goodL := tunneltest.NewMemory("web")
			defer good.Close()
			a, b := &scriptedAgent{script: []string{script}}, &scriptedAgent{script: []string{"ok"}}
			if script == "closed" {
				bad.Close()
			}
			go a.serve(badL)
			go b.serve(goodL)
			asked := 0
			_, addr := startHTTP(t, HTTPOptions{Router: routerFunc(func(context.Context, string) (Target, error) {
				if asked++; asked == 1 {
					return Target{Tunnel: bad}, nil
				}
				return Target{Tunnel: good}, nil
			})})
			c := dial(t, addr)
			c.send("POST /a HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc")
			if resp, body := c.response("POST"); resp.StatusCode != 200 || body != "ok" {
				t.Errorf("got %d %q, want 200 ok", resp.StatusCode, body)
			}
			if len(b.deliveries) != 1 || b.deliveries[0] != "POST /aabc" {
				t.Errorf("delivered %q, want the request once", b.deliveries)
			}
		})
	}
}

// TestStaleStream has upstreams that close each conn after its first response.
func TestStaleStream(t *testing.T) {
	t.Parallel()
	m, l := tunneltest.NewMemory("web")
	defer m.Close()
	a := &scriptedAgent{script: []string{"once"}}
	go a.serve(l)
	_, addr := startHTTP(t, HTTPOptions{Router: always(m)})
	c := dial(t, addr)
	for i := range 20 {
		c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
		if resp, _ := c.response("GET"); resp.StatusCode != 200 {
			t.Fatalf("request %d: %d %s", i, resp.StatusCode, resp.Header.Get("Adit-Error"))
		}
	}
}

func TestPoolTakesNoDeadStream(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		act  func(far *memnet.Conn)
		want bool
	}{
		{"open", func(*memnet.Conn) {}, true},
		{"closed", func(far *memnet.Conn) { far.Close() }, false},
		{"half-closed", func(far *memnet.Conn) { far.CloseWrite() }, false},
		{"has bytes", func(far *memnet.Conn) { far.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			near, far := memnet.Pipe()
			defer far.Close()
			defer near.Close()
			sp := &streamPool{max: 1, done: make(chan struct{})}
			sp.put(&stream{conn: near, pool: sp}, 0)
			tt.act(far)
			if s := sp.get(netip.AddrPort{}, 0, true); (s != nil) != tt.want {
				t.Errorf("get = %v, want one: %v", s, tt.want)
			}
		})
	}
}

func TestPoolBounds(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	sp := &streamPool{max: 2, done: done}
	var near []*memnet.Conn
	add := func() *stream {
		a, _ := memnet.Pipe()
		near = append(near, a)
		s := &stream{conn: a, pool: sp}
		sp.put(s, 0)
		return s
	}
	one, two, three := add(), add(), add()
	if !three.ended.Load() || one.ended.Load() || two.ended.Load() {
		t.Error("the third of two idle streams is kept")
	}
	if s := sp.get(netip.AddrPort{}, 2*unsureLimit, true); s != nil {
		t.Error("a stream that idled for long serves a request that cannot be repeated")
	}
	if s := sp.get(netip.AddrPort{}, 2*unsureLimit, false); s != two {
		t.Errorf("got %p, want the one used last, %p", s, two)
	}
	sp.closeOlder(2*idleLimit, idleLimit)
	if !one.ended.Load() {
		t.Error("a stream that idled for longer than the limit is kept")
	}
	close(done)
	if s := add(); !s.ended.Load() {
		t.Error("a stream of a tunnel that ended is kept")
	}
	for _, c := range near {
		c.Close()
	}
}

// A restless is a tunnel that can be made unavailable.
type restless struct {
	*tunneltest.Memory
	away   atomic.Bool
	notify func()
}

func (r *restless) Available() bool         { return !r.away.Load() }
func (r *restless) OnAvailability(f func()) { r.notify = f }

func TestPoolLetsGoOfTunnelThatIsAway(t *testing.T) {
	t.Parallel()
	m, l := tunneltest.NewMemory("web")
	defer l.Close()
	defer m.Close()
	tun := &restless{Memory: m}
	pools := &streamPools{max: 4}
	sp := pools.pool(streamKey{tun, ""}, true)
	put := func() *stream {
		a, b := memnet.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		s := &stream{conn: a, pool: sp}
		sp.put(s, 0)
		return s
	}
	idle := put()
	tun.away.Store(true)
	tun.notify()
	if !idle.ended.Load() {
		t.Error("an idle stream is kept, and an agent that drains waits for it")
	}
	if s := put(); !s.ended.Load() {
		t.Error("a stream of a tunnel that is away is kept")
	}
	tun.away.Store(false)
	tun.notify()
	if s := put(); s.ended.Load() {
		t.Error("a stream of a tunnel that is back is not kept")
	}
}

func TestHoldDoesNotReadBody(t *testing.T) {
	t.Parallel()
	m := startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	asked, release := make(chan bool, 1), make(chan bool)
	l := memnet.Listen("front")
	startOn(t, HTTPOptions{Router: routerFunc(func(context.Context, string) (Target, error) {
		asked <- true
		<-release
		return Target{Tunnel: m}, nil
	})}, l)
	c, err := l.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const size = 1 << 20
	var mu sync.Mutex
	written := 0
	go func() {
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", size)
		for n := 0; n < size; n += 1024 {
			c.Write(make([]byte, 1024))
			mu.Lock()
			written += 1024
			mu.Unlock()
		}
	}()
	wait(t, "Route", asked)
	mu.Lock()
	if limit := memnet.BufferSize + headBuffer; written > limit {
		t.Errorf("%d bytes of the body taken while the request is held, want at most %d", written, limit)
	}
	mu.Unlock()
	close(release)
	if all, err := io.ReadAll(c); !strings.HasSuffix(string(all), fmt.Sprint("\r\n\r\n", size)) {
		t.Errorf("got %q, %v; want the upstream to have seen %d bytes", all, err, size)
	}
}

// TestVisitorLeavesHold has a visitor that goes away while its request waits
// for an agent.
func TestVisitorLeavesHold(t *testing.T) {
	t.Parallel()
	asked, ended := make(chan bool, 1), make(chan error, 1)
	_, addr := startHTTP(t, HTTPOptions{Router: routerFunc(func(ctx context.Context, _ string) (Target, error) {
		asked <- true
		<-ctx.Done()
		ended <- ctx.Err()
		return Target{}, ctx.Err()
	})})
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	wait(t, "Route", asked)
	c.Close()
	wait(t, "the end of Route", ended)
}
