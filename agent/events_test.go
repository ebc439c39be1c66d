package agent_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/agent"
	"adit/dialect"
)

// events are what an agent has told of streams and requests.
type events struct {
	t *testing.T

	mu       sync.Mutex
	streams  []agent.Stream
	requests []agent.Request
	changed  chan struct{} // closed and replaced at each event
}

func watch(t *testing.T, opts *agent.Options) *events {
	e := &events{t: t, changed: make(chan struct{})}
	opts.OnStream = func(s agent.Stream) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.streams = append(e.streams, s)
		e.toldLocked()
	}
	opts.OnRequest = func(r agent.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.requests = append(e.requests, r)
		e.toldLocked()
	}
	return e
}

func (e *events) toldLocked() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// until waits until find, which is called with the lock held, returns true.
func (e *events) until(what string, find func() bool) {
	e.t.Helper()
	timeout := time.After(patience)
	for {
		e.mu.Lock()
		found, changed := find(), e.changed
		e.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			e.t.Fatalf("no %s after %v; streams: %+v, requests: %+v", what, patience, e.streams, e.requests)
		}
	}
}

// request waits for the end of the request for that target.
func (e *events) request(target string) (r agent.Request) {
	e.t.Helper()
	e.until("request for "+target, func() bool {
		for _, r = range e.requests {
			if r.Done && r.Target == target {
				return true
			}
		}
		return false
	})
	return r
}

func TestOnRequest(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	defer func() { f.stop() }() // ends streams that wait for their next request
	site := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/missing":
			w.WriteHeader(404)
		case "/flushed":
			for range 3 {
				io.WriteString(w, "abc")
				http.NewResponseController(w).Flush()
			}
		default:
			w.Write(body)
		}
	})
	web := httptest.NewServer(site)
	defer web.Close()
	ln := agent.NewListener("listener", 0)
	served := &http.Server{Handler: site}
	ended := make(chan struct{})
	go func() { served.Serve(ln); close(ended) }()
	defer func() { served.Close(); <-ended }()

	opts := f.options(
		agent.Tunnel{ID: "socket", Kind: dialect.HTTP, Upstream: upstream(t, web.URL)},
		agent.Tunnel{ID: "handler", Kind: dialect.HTTP, Upstream: agent.HandlerUpstream("handler", site)},
		agent.Tunnel{ID: "listener", Kind: dialect.HTTP, Upstream: ln.Upstream()},
	)
	e := watch(t, &opts)
	run(t, opts).until(agent.Connected)
	for _, id := range []string{"socket", "handler", "listener"} {
		for _, tt := range []struct {
			method, target, body string
			status               int
			received, sent       int64
		}{
			{"GET", "/?a=" + id, "", 200, 0, 0},
			{"POST", "/post?" + id, "hello", 200, 5, 5},
			{"GET", "/missing?" + id, "", 404, 0, 0},
			{"HEAD", "/head?" + id, "", 200, 0, 0},
			{"PUT", "/flushed?" + id, "0123456789", 200, 10, 9},
		} {
			req, err := http.NewRequest(tt.method, "http://"+f.addr+"/"+id+tt.target, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			r := e.request(tt.target)
			if string(r.Tunnel) != id || r.Method != tt.method || r.Status != tt.status || r.Received != tt.received || r.Sent != tt.sent ||
				r.Broken || r.Upgraded || r.ID == 0 || r.Stream == 0 || r.Duration <= 0 || time.Since(r.Begin) > patience {
				t.Errorf("%s %s%s: got %+v, want %d and %d/%d bytes", tt.method, id, tt.target, r, tt.status, tt.received, tt.sent)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.requests {
		open := false
		for _, s := range e.streams {
			open = open || s.ID == r.Stream && s.Tunnel == r.Tunnel && !s.Done && s.Reached == (s.Tunnel == "socket")
		}
		if !open {
			t.Errorf("%+v is on no stream that was told of", r)
		}
	}
}

// TestOnRequestUpgrade tells of an upgrade when it happens, and when it ends.
func TestOnRequestUpgrade(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, buf)
	}))
	defer up.Close()
	opts := f.options(agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: upstream(t, up.URL)})
	e := watch(t, &opts)
	run(t, opts).until(agent.Connected)
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "GET /web/echo HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", f.addr)
	br := bufio.NewReader(c)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("got %v, %v; want 101", resp, err)
	}
	e.until("upgrade", func() bool {
		last := e.requests[len(e.requests)-1]
		return last.Upgraded && last.Status == 101 && !last.Done
	})
	io.WriteString(c, "hello")
	if _, err := io.ReadFull(br, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if r := e.request("/echo"); r.Left || r.Received != 5 || r.Sent != 5 || !r.Upgraded {
		t.Errorf("got %+v, want 5 bytes each way", r)
	}
}

// TestOnRequestLeft tells a visitor who leaves from an upstream that fails.
func TestOnRequestLeft(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begin")
		http.NewResponseController(w).Flush()
		if r.URL.Path == "/fail" {
			panic(http.ErrAbortHandler)
		}
		<-r.Context().Done()
	}))
	defer up.Close()
	opts := f.options(agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: upstream(t, up.URL)})
	e := watch(t, &opts)
	run(t, opts).until(agent.Connected)
	for path, left := range map[string]bool{"/leave": true, "/fail": false} {
		c, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(c, "GET /web%s HTTP/1.1\r\nHost: %s\r\n\r\n", path, f.addr)
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if left {
			io.ReadFull(resp.Body, make([]byte, 5))
			c.Close()
		}
		if r := e.request(path); !r.Broken || r.Left != left || r.Status != 200 {
			t.Errorf("%s: got %+v, want broken, and left %v", path, r, left)
		}
	}
}

func TestOnStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	down := upstream(t, refusing(t))
	opts := f.options(
		agent.Tunnel{ID: "echo", Kind: dialect.TCP, Upstream: upstream(t, echoUpstream(t))},
		agent.Tunnel{ID: "down", Kind: dialect.TCP, Upstream: down},
	)
	e := watch(t, &opts)
	bound := run(t, opts).until(agent.Connected).Bound

	c := f.visit(bound[0].Port)
	echo(t, c, "hello")
	find := func(id string, done bool) (s agent.Stream) {
		t.Helper()
		e.until("stream", func() bool {
			for _, s = range e.streams {
				if string(s.Tunnel) == id && s.Done == done {
					return true
				}
			}
			return false
		})
		return s
	}
	if s := find("echo", false); s.Kind != dialect.TCP || s.Upstream != opts.Tunnels[0].Upstream || !s.Reached || s.Visitor.String() != c.LocalAddr().String() {
		t.Errorf("got %+v, want TCP, the upstream, and %v", s, c.LocalAddr())
	}
	c.CloseWrite()
	io.ReadAll(c)
	c.Close()
	if s := find("echo", true); s.Received != 5 || s.Sent != 5 || s.Err != nil || s.Refused || s.Duration <= 0 {
		t.Errorf("got %+v, want 5 bytes each way and no error", s)
	}
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", bound[1].Port)); err == nil { // it may be reset at once
		defer c.Close()
	}
	if s := find("down", true); !s.Refused || s.Reached || s.Err == nil {
		t.Errorf("got %+v, want refused and why", s)
	}
	if err := down.Check(t.Context()); err == nil {
		t.Error("Check of an upstream that is down: nil")
	}
	if err := opts.Tunnels[0].Upstream.Check(t.Context()); err != nil {
		t.Errorf("Check of an upstream that answers: %v", err)
	}
	if err := agent.HandlerUpstream("h", http.NotFoundHandler()).Check(t.Context()); err != nil {
		t.Errorf("Check of a handler: %v", err)
	}
}

func TestOnRoundTrip(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	opts := f.options(agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: upstream(t, webUpstream(t).URL)})
	measured := make(chan time.Duration, 1000)
	opts.OnRoundTrip = func(d time.Duration) { measured <- d }
	r := run(t, opts)
	r.until(agent.Connected)
	select {
	case d := <-measured:
		if d <= 0 || d > patience {
			t.Errorf("got %v, want a round trip over loopback", d)
		}
	case <-time.After(patience):
		t.Errorf("not told within %v", patience)
	}
}
