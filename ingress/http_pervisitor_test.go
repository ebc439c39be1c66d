package ingress

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// startWitness runs an upstream that answers with the number of the stream that
// a request came on, and the visitor that it was opened for. The number of a
// stream that has ended is sent to ended.
func startWitness(t *testing.T, h2 bool) (m *tunneltest.Memory, ended <-chan int64) {
	t.Helper()
	m, l := tunneltest.NewMemory("web")
	type key struct{}
	type seen struct {
		number  int64
		visitor netip.AddrPort
	}
	gone := make(chan int64, 100)
	var streams atomic.Int64
	var numbers sync.Map // of streams, by conn
	srv := &http.Server{
		ErrorLog:  log.New(io.Discard, "", 0),
		Protocols: new(http.Protocols),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			s := seen{streams.Add(1), c.(tunnel.Incoming).Info().Visitor}
			numbers.Store(c, s.number)
			return context.WithValue(ctx, key{}, s)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if n, ok := numbers.Load(c); ok && state == http.StateClosed {
				gone <- n.(int64)
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := r.Context().Value(key{}).(seen)
			fmt.Fprintf(w, "%d %s", s.number, s.visitor)
		}),
	}
	srv.Protocols.SetHTTP1(!h2)
	srv.Protocols.SetUnencryptedHTTP2(h2)
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(answering{l}) })
	t.Cleanup(func() {
		srv.Close()
		m.Close()
		wg.Wait()
	})
	return m, gone
}

func (c *rawConn) ask(fields string) string {
	c.t.Helper()
	c.send("GET / HTTP/1.1\r\nHost: web\r\n" + fields + "\r\n")
	_, body := c.response("GET")
	return body
}

// With PerVisitor a stream serves one visitor, and says who it is.
func TestPerVisitor(t *testing.T) {
	t.Parallel()
	m, ended := startWitness(t, false)
	_, addr := startHTTP(t, HTTPOptions{Router: to(Target{Tunnel: m, PerVisitor: true})})
	a, b := dial(t, addr), dial(t, addr)
	for range 2 { // the second time on the stream of the first
		for i, c := range []*rawConn{a, b} {
			if got, want := c.ask(""), fmt.Sprintf("%d %s", i+1, c.LocalAddr()); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	}
	a.Close()
	select {
	case n := <-ended:
		if n != 1 {
			t.Errorf("stream %d has ended, want that of the visitor who left, 1", n)
		}
	case <-time.After(patience):
		t.Error("the stream of a visitor who left is kept")
	}
	if got, want := b.ask(""), fmt.Sprintf("2 %s", b.LocalAddr()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Without it, a stream serves one after the other.
func TestStreamsAreShared(t *testing.T) {
	t.Parallel()
	m, _ := startWitness(t, false)
	h, addr := startHTTP(t, HTTPOptions{Router: to(Target{Tunnel: m})})
	for range 2 {
		if got, want := dial(t, addr).ask(""), "1 invalid AddrPort"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		waitIdle(t, h)
	}
}

// waitIdle waits until a stream is idle: a visitor may have its answer before
// that.
func waitIdle(t *testing.T, h *HTTP) {
	t.Helper()
	limit := time.Now().Add(patience)
	for time.Now().Before(limit) {
		idle := 0
		h.streams.mu.RLock()
		for _, p := range h.streams.pools {
			p.mu.Lock()
			idle += len(p.idle)
			p.mu.Unlock()
		}
		h.streams.mu.RUnlock()
		if idle > 0 {
			return
		}
		runtime.Gosched()
	}
	t.Fatal("no stream becomes idle")
}

// Behind a trusted proxy the visitor is who the proxy says, though they share
// its conns.
func TestPerVisitorBehindProxy(t *testing.T) {
	t.Parallel()
	m, _ := startWitness(t, false)
	_, addr := startHTTP(t, HTTPOptions{
		Router:         to(Target{Tunnel: m, PerVisitor: true}),
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	c := dial(t, addr)
	for _, tt := range []struct{ forwarded, want string }{
		{"X-Forwarded-For: 203.0.113.1\r\n", "1 203.0.113.1:0"},
		{"X-Forwarded-For: 203.0.113.2\r\n", "2 203.0.113.2:0"},
		{"X-Forwarded-For: 198.51.100.7, 203.0.113.1\r\n", "1 203.0.113.1:0"},
		{"X-Forwarded-For: 2001:db8::1\r\n", "3 [2001:db8::1]:0"},
		{"X-Forwarded-For: unknown\r\n", "4 invalid AddrPort"},
	} {
		if got := c.ask(tt.forwarded); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.forwarded, got, tt.want)
		}
	}
}

// What net/http has parsed is held to the same.
func TestPerVisitorFallback(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprint("HTTP/2 upstream ", h2), func(t *testing.T) {
			t.Parallel()
			m, _ := startWitness(t, h2)
			h := NewHTTP(HTTPOptions{
				Router:         to(Target{Tunnel: m, PerVisitor: true, HTTP2: h2}),
				TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
			})
			t.Cleanup(func() { h.Close() })
			for _, tt := range []struct{ remote, forwarded, want string }{
				{"203.0.113.1:1000", "", "1 203.0.113.1:1000"},
				{"203.0.113.1:1001", "", "2 203.0.113.1:1001"},
				{"203.0.113.1:1000", "198.51.100.7", "1 203.0.113.1:1000"},
				{"127.0.0.1:1000", "203.0.113.1", "3 203.0.113.1:0"},
				{"127.0.0.1:1001", "203.0.113.1", "3 203.0.113.1:0"},
				{"[2001:db8::1]:1000", "", "4 [2001:db8::1]:1000"},
				{"@", "", "5 invalid AddrPort"},
			} {
				w := httptest.NewRecorder()
				r := httptest.NewRequest("GET", "/", nil)
				r.Host, r.RemoteAddr = "web", tt.remote
				if tt.forwarded != "" {
					r.Header.Set("X-Forwarded-For", tt.forwarded)
				}
				h.ServeHTTP(w, r)
				if got := w.Body.String(); got != tt.want {
					t.Errorf("from %s for %q: got %q, want %q", tt.remote, tt.forwarded, got, tt.want)
				}
			}
		})
	}
}
