package wstunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/tunnel"
)

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// waitFor waits until ask is true: the far side gives no event to wait for.
func waitFor(t *testing.T, what string, ask func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ask(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in time", what)
		}
	}
}

func (t *Tunnel) counts() (links, waiting, open, pending int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.links), len(t.waiting), len(t.open), t.pending
}

// What waits is sent in its order when a client is back.
func TestWaitInOrder(t *testing.T) {
	t.Parallel()
	s, addr := startServer(t, ServerOptions{})
	p, _ := dialPeer(t, addr, originalHandshake(testToken))
	tun, _ := s.Tunnel(testToken)
	p.close()
	waitFor(t, "the link's end", func() bool { n, _, _, _ := tun.counts(); return n == 0 })
	const n = 50
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if code, text := get(t, addr, fmt.Sprint("/", i)); code != 200 {
				t.Errorf("request %d: got %d %q", i, code, text)
			}
		})
		waitFor(t, "the request", func() bool { _, w, _, _ := tun.counts(); return w == i+1 })
	}
	p, _ = dialPeer(t, addr, originalHandshake(testToken))
	for i := range n {
		m := p.message()
		if want := fmt.Sprintf("GET /%d HTTP/1.1\r\n", i); !strings.HasPrefix(m[idSize:], want) {
			t.Errorf("message %d: got %q, want %q", i, m, want)
		}
		p.send(m[:idSize] + okAnswer)
	}
	wg.Wait()
	if _, w, o, pending := tun.counts(); w+o+pending != 0 {
		t.Errorf("left are %d waiting, %d ids, %d pending; want none", w, o, pending)
	}
}

// A request that was with a client which vanished is sent again only if it may
// be.
func TestLostLink(t *testing.T) {
	t.Parallel()
	_, addr := startServer(t, ServerOptions{})
	for _, tt := range []struct {
		method string
		want   int
		sent   int
	}{{"GET", 200, 2}, {"PUT", 200, 2}, {"POST", 502, 1}, {"PATCH", 502, 1}} {
		p, _ := dialPeer(t, addr, originalHandshake(testToken))
		var code atomic.Int64
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, _ := send(t, tt.method, addr, "/x", strings.NewReader("body"))
			code.Store(int64(c))
		}()
		first := p.message()
		p.conn.Close()
		q, _ := dialPeer(t, addr, originalHandshake(testToken))
		if tt.sent > 1 {
			again := q.message()
			if again[idSize:] != first[idSize:] {
				t.Errorf("%s: sent again as %q, was %q", tt.method, again, first)
			}
			q.send(again[:idSize] + okAnswer)
		}
		<-done
		if got := int(code.Load()); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.method, got, tt.want)
		}
		q.close()
	}
}

// An answer that comes after its caller has gone reaches nobody else, however
// often the ids have gone round.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	s, addr := startServer(t, ServerOptions{RequestTimeout: 100 * time.Millisecond})
	p, _ := dialPeer(t, addr, originalHandshake(testToken))
	tun, _ := s.Tunnel(testToken)
	code := make(chan int, 1)
	go func() { c, _ := get(t, addr, "/late"); code <- c }()
	late := p.message()[:idSize]
	if got := <-code; got != http.StatusGatewayTimeout {
		t.Errorf("late request: got %d, want 504", got)
	}
	id, _ := parseID([]byte(late))
	tun.mu.Lock()
	tun.lastID = id - 1
	tun.opts = &ServerOptions{RequestTimeout: 10 * time.Second, MaxPending: 10, MaxBody: MaxMessage, PingTimeout: time.Minute, Log: tun.opts.Log}
	tun.mu.Unlock()
	body := make(chan string, 1)
	go func() { _, b := get(t, addr, "/next"); body <- b }()
	next := p.message()[:idSize]
	if next == late {
		t.Fatalf("id %s was used again while its answer may come", late)
	}
	p.send(late + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
	p.send(next + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext")
	if got := <-body; got != "next" {
		t.Errorf("got %q, want next", got)
	}
	if _, _, open, _ := tun.counts(); open != 0 {
		t.Errorf("%d ids are taken after both answers, want 0", open)
	}
}

// Limits answer, and harm nobody else.
func TestLimits(t *testing.T) {
	t.Parallel()
	s, addr := startServer(t, ServerOptions{MaxPending: 1, MaxBody: 100 << 10, Budget: 1 << 20})
	p, _ := dialPeer(t, addr, originalHandshake(testToken))
	tun, _ := s.Tunnel(testToken)
	if code, _ := send(t, "POST", addr, "/", strings.NewReader(strings.Repeat("x", 101<<10))); code != http.StatusRequestEntityTooLarge {
		t.Errorf("large body: got %d, want 413", code)
	}
	if code, _ := send(t, "POST", addr, "/", io.MultiReader(strings.NewReader(strings.Repeat("x", 101<<10)))); code != http.StatusRequestEntityTooLarge {
		t.Errorf("large body in chunks: got %d, want 413", code)
	}
	done := make(chan int, 1)
	go func() { c, _ := get(t, addr, "/1"); done <- c }()
	m := p.message()
	if code, text := get(t, addr, "/2"); code != http.StatusGatewayTimeout || text != "Too many requests in-flight, tunnel broken?\n" {
		t.Errorf("second request: got %d %q", code, text)
	}
	p.send(m[:idSize] + "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("y", 2<<20))
	if c := <-done; c == 200 {
		t.Errorf("answer over the limit: got %d", c)
	}
	waitFor(t, "room for another", func() bool { _, _, _, n := tun.counts(); return n == 0 })
	go func() { c, _ := get(t, addr, "/3"); done <- c }()
	m = p.message()
	p.send(m[:idSize] + okAnswer)
	if c := <-done; c != 200 {
		t.Errorf("request after that: got %d, want 200", c)
	}
	if used := tun.rooms.bytes.used.Load(); used != 0 {
		t.Errorf("%d bytes of the budget are in use, want 0", used)
	}
}

func TestTunnelInterface(t *testing.T) {
	t.Parallel()
	s, addr := startServer(t, ServerOptions{})
	p, _ := dialPeer(t, addr, originalHandshake(testToken))
	tun, _ := s.Tunnel(testToken)
	if strings.Contains(string(tun.ID()), testToken[:4]) {
		t.Errorf("ID %s tells of the token", tun.ID())
	}
	if _, err := tun.OpenStream(t.Context(), tunnel.StreamInfo{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("OpenStream: got %v, want ErrUnsupported", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "POST", "http://inner/p?q", strings.NewReader("abc"))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		m := p.message()
		if !strings.HasPrefix(m[idSize:], "POST /p?q HTTP/1.1\r\nHost: inner\r\n") || !strings.HasSuffix(m, "\r\n\r\nabc") {
			t.Errorf("message %q", m)
		}
		p.send(m[:idSize] + okAnswer)
	}()
	resp, err := tun.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); string(b) != "ok" || err != nil {
		t.Errorf("body %q, %v", b, err)
	}
	resp.Body.Close()
	cancel()
	if _, err := tun.RoundTrip(req); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: got %v", err)
	}
	tun.Close()
	tun.Close()
	<-tun.Done()
	var se *StatusError
	if _, err := tun.RoundTrip(req.WithContext(t.Context())); !errors.As(err, &se) {
		t.Errorf("after Close: got %v, want a *StatusError", err)
	}
}

// Token in Host, and paths that are passed on as they are.
func TestAddress(t *testing.T) {
	t.Parallel()
	_, addr := startServer(t, ServerOptions{})
	p, _ := dialPeer(t, addr, originalHandshake("token-that-is-a-label"))
	for _, tt := range []struct{ raw, want string }{
		{"GET /a//b/../c HTTP/1.1\r\nHost: token-that-is-a-label.example.com\r\n", "GET /a//b/../c HTTP/1.1"},
		{"GET /_token/token-that-is-a-label/a|b\"c?d|e HTTP/1.1\r\nHost: h\r\n", "GET /a%7Cb%22c?d|e HTTP/1.1"},
		{"GET /x HTTP/1.1\r\nHost: h\r\nX-Token:  token-that-is-a-label \r\n", "GET /x HTTP/1.1"},
	} {
		answer := ask(t, addr, tt.raw+"Connection: close\r\n\r\n")
		m := p.message()
		if got, _, _ := strings.Cut(m[idSize:], "\r\n"); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.raw, got, tt.want)
		}
		p.send(m[:idSize] + okAnswer)
		<-answer
	}
	if got := <-ask(t, addr, "GET / HTTP/1.1\r\nHost: another-token-here.example.com\r\nConnection: close\r\n\r\n"); !strings.Contains(got, "Missing X-Token header") {
		t.Errorf("unknown label: got %q", got)
	}
}
