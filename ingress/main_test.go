package ingress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test.
const patience = 10 * time.Second

type routerFunc func(ctx context.Context, key string) (Target, error)

func (f routerFunc) Route(ctx context.Context, key string) (Target, error) {
	return f(ctx, key)
}

// always routes the hostname web and the ID web to t.
func always(t tunnel.Tunnel) routerFunc {
	return func(_ context.Context, key string) (Target, error) {
		if key != "web" && key != "/web" {
			return Target{}, fmt.Errorf("route %q: %w", key, ErrNoRoute)
		}
		return Target{Tunnel: t, Service: "site"}, nil
	}
}

// startHTTP runs an ingress on loopback and returns its address.
func startHTTP(t testing.TB, opts HTTPOptions) (*HTTP, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, opts, l), l.Addr().String()
}

func startOn(t testing.TB, opts HTTPOptions, l net.Listener) *HTTP {
	t.Helper()
	h := NewHTTP(opts)
	done := make(chan error, 1)
	go func() { done <- h.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		h.Close()
		if err := <-done; err != http.ErrServerClosed {
			t.Errorf("Serve: %v, want http.ErrServerClosed", err)
		}
	})
	return h
}

// startUpstream serves handler at the far side of a new tunnel.
func startUpstream(t testing.TB, handler http.Handler) *tunneltest.Memory {
	t.Helper()
	m, l := tunneltest.NewMemory("web")
	srv := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(answering{l}) })
	t.Cleanup(func() {
		srv.Close()
		m.Close()
		wg.Wait()
	})
	return m
}

// answering accepts each stream at once, as an agent whose upstream is there.
type answering struct{ net.Listener }

func (l answering) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		c.(tunnel.Incoming).Accept()
	}
	return c, err
}

// startSite runs an ingress in front of handler, which is reached as web.
func startSite(t testing.TB, handler http.HandlerFunc, change ...func(*HTTPOptions)) string {
	t.Helper()
	opts := HTTPOptions{Router: always(startUpstream(t, handler))}
	for _, f := range change {
		f(&opts)
	}
	_, addr := startHTTP(t, opts)
	return addr
}

// A rawConn speaks to an ingress byte by byte.
type rawConn struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *rawConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return &rawConn{c, t, bufio.NewReader(c)}
}

func (c *rawConn) send(format string, args ...any) {
	c.t.Helper()
	if len(args) > 0 {
		format = fmt.Sprintf(format, args...)
	}
	if _, err := io.WriteString(c.Conn, format); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// response reads one response with its body.
func (c *rawConn) response(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("read response: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("read body: %v", err)
	}
	return resp, string(body)
}

// closed fails the test if the conn is not at its end.
func (c *rawConn) closed() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); len(rest) > 0 || errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		c.t.Errorf("conn goes on with %q, %v; want it closed", rest, err)
	}
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

func (c *rawConn) expect(want string) {
	c.t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c.r, got); err != nil || string(got) != want {
		c.t.Fatalf("got %q, %v; want %q", got[:n], err, want)
	}
}

// wait receives from ch.
func wait[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("timed out waiting for %s", what)
		panic("unreachable")
	}
}
