package adit_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"adit"
	"adit/adittest"
	"adit/policy"
)

func TestListenHTTP(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	l := srv.Listen(t, adit.WithID("web"))
	served := make(chan error, 1)
	go func() { served <- http.Serve(l, http.HandlerFunc(hello)) }()

	if want := srv.URL() + "/web/"; l.URL() != want {
		t.Errorf("URL: %s, want %s", l.URL(), want)
	}
	for _, u := range l.URLs() {
		if status, _, body := get(t, srv, u+"page"); status != 200 || body != "hello from /page" {
			t.Errorf("GET %s: %d %q", u, status, body)
		}
	}
	if got, want := l.Addr().String(), strings.TrimPrefix(srv.URL(), "http://"); got != want || l.Addr().Network() != "tcp" {
		t.Errorf("Addr: %s %s, want tcp %s", l.Addr().Network(), got, want)
	}
	if s := l.Status(); s.State != adit.StateConnected || s.URLs[0] != l.URL() {
		t.Errorf("Status: %v, want it to be connected", s)
	}

	if err := l.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve after Close: %v, want %v", err, net.ErrClosed)
	}
	if err := l.Shutdown(briefly(t)); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := wait(t, l); err != nil {
		t.Errorf("Wait after Close: %v, want nil", err)
	}
	if s := l.Status(); s.State != adit.StateClosed || s.Err != nil {
		t.Errorf("Status after Close: %v, want it to be closed", s)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// A program may speak HTTP/2 without TLS, with trailers, as gRPC does.
func TestListenHTTP2(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	l := srv.Listen(t, adit.WithID("web"), adit.WithHTTP2())
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		io.Copy(w, r.Body)
		io.WriteString(w, " over "+r.Proto)
		w.Header().Set("Grpc-Status", "0")
	})}
	s.Protocols.SetUnencryptedHTTP2(true)
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(l)
	}()
	t.Cleanup(func() { s.Close(); <-served })
	resp, err := srv.Client().Post(l.URL(), "application/grpc", strings.NewReader("a message"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || string(b) != "a message over HTTP/2.0" || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("got %q, %v, trailer %v", b, err, resp.Trailer)
	}
}

// A handler of net/http sees who its visitors are, though they come in turn.
func TestHTTPRemoteAddr(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	l := srv.Listen(t, adit.WithID("web"))
	serve(t, l, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) })
	for range 3 {
		var local string
		tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil {
				local = c.LocalAddr().String()
			}
			return c, err
		}}
		defer tr.CloseIdleConnections()
		for range 2 {
			resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get(l.URL())
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(b) != local {
				t.Errorf("RemoteAddr: %q, %v; want the visitor's, %s", b, err, local)
			}
		}
	}
}

// A policy keeps visitors out.
func TestListenPolicy(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	login, err := policy.NewLogin("ann", "a good password")
	if err != nil {
		t.Fatal(err)
	}
	l := srv.Listen(t, adit.WithID("web"), adit.WithPolicy(policy.Policy{BasicAuth: []policy.Login{login}}))
	serve(t, l, hello)
	if status, code, _ := get(t, srv, l.URL()); status != 401 || code != "login-required" {
		t.Errorf("without a login: %d %s, want 401 login-required", status, code)
	}
	u, err := url.Parse(l.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("ann", "a good password")
	if status, _, _ := get(t, srv, u.String()); status != 200 {
		t.Errorf("with the login: %d, want 200", status)
	}
}

func TestListenTCP(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	l := srv.Listen(t, adit.WithID("raw"), adit.WithTCP(0))
	if !strings.HasPrefix(l.URL(), "tcp://127.0.0.1:") {
		t.Errorf("URL: %s, want a TCP port", l.URL())
	}
	visitor := visit(t, l.URL())
	c := accept(t, l)
	if got, want := c.RemoteAddr().String(), visitor.LocalAddr().String(); got != want {
		t.Errorf("RemoteAddr: %s, want the visitor's, %s", got, want)
	}
	if got, want := c.LocalAddr().String(), visitor.RemoteAddr().String(); got != want {
		t.Errorf("LocalAddr: %s, want the server's, %s", got, want)
	}
	pass(t, visitor, c, "ping")
	pass(t, c, visitor, "pong")

	c.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read after the deadline: %v, want %v", err, os.ErrDeadlineExceeded)
	}
	c.SetReadDeadline(time.Now().Add(patience))

	visitor.CloseWrite()
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Errorf("after the visitor's half-close: %q, %v; want the end", b, err)
	}
	pass(t, c, visitor, "still there")
	c.CloseWrite()
	if b, err := io.ReadAll(visitor); len(b) > 0 || err != nil {
		t.Errorf("after the program's half-close: %q, %v; want the end", b, err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v, want %v", err, net.ErrClosed)
	}
}

// Reset ends a conn so that the visitor cannot take it for the whole.
func TestReset(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	l := srv.Listen(t, adit.WithID("raw"), adit.WithTCP(0))
	visitor := visit(t, l.URL())
	c := accept(t, l)
	pass(t, c, visitor, "the first half")
	c.Reset()
	if _, err := visitor.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read of the visitor: %v, want %v", err, syscall.ECONNRESET)
	}

	visitor = visit(t, l.URL())
	c = accept(t, l)
	pass(t, visitor, c, "the first half")
	visitor.SetLinger(0)
	visitor.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("Read after the visitor's reset: %v, want an error other than %v", err, io.EOF)
	}
}

// The conns behave as net.Conn demands.
func TestConn(t *testing.T) {
	srv := adittest.NewServer(t)
	l := srv.Listen(t, adit.WithID("raw"), adit.WithTCP(0))
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		if c1, err = net.Dial("tcp", l.Addr().String()); err != nil {
			return nil, nil, nil, err
		}
		if c2, err = l.Accept(); err != nil {
			return nil, nil, nil, err
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

// Close leaves conns open, and Shutdown waits for them.
func TestCloseLeavesConns(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	ev := newEvents()
	token := adit.WithTokenFunc(func(ctx context.Context) (string, error) { return srv.Secret(), ctx.Err() })
	l := srv.Listen(t, adit.WithID("raw"), adit.WithTCP(0), ev.option(), token)
	visitor := visit(t, l.URL())
	c := accept(t, l)
	pass(t, visitor, c, "before")
	l.Close()
	ev.until(t, adit.StateClosing)
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v, want %v", err, net.ErrClosed)
	}
	pass(t, c, visitor, "after")
	srv.Cut() // what is open survives that still
	pass(t, visitor, c, "after all")

	shut := make(chan error, 1)
	go func() { shut <- l.Shutdown(briefly(t)) }()
	select {
	case err := <-shut:
		t.Fatalf("Shutdown with an open conn: %v, want it to wait", err)
	case <-time.After(50 * time.Millisecond):
	}
	c.Close()
	visitor.Close()
	if err := <-shut; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	ev.until(t, adit.StateClosed)
}

// When its ctx ends, Shutdown cuts off who is left.
func TestShutdownCuts(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	l := srv.Listen(t, adit.WithID("raw"), adit.WithTCP(0))
	visitor := visit(t, l.URL())
	c := accept(t, l)
	pass(t, visitor, c, "hello")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v, want %v", err, context.DeadlineExceeded)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("Read of the program: %d, %v; want an error", n, err)
	}
	if n, err := visitor.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("Read of the visitor: %d, %v; want the end or an error", n, err)
	}
	if err := wait(t, l); err != nil {
		t.Errorf("Wait: %v, want nil", err)
	}
}

// The Shutdown of a server of net/http lets requests finish, and does not wait
// for more than them.
func TestHTTPServerShutdown(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	ev := newEvents()
	l := srv.Listen(t, adit.WithID("web"), ev.option())
	entered, release := make(chan struct{}), make(chan struct{})
	s := serve(t, l, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(entered)
			<-release
		}
		hello(w, r)
	})
	get(t, srv, l.URL()+"quick") // leaves a conn that is kept for more requests
	answer := make(chan string, 1)
	go func() {
		_, _, body := get(t, srv, l.URL()+"slow")
		answer <- body
	}()
	<-entered
	shut := make(chan error, 1)
	go func() { shut <- s.Shutdown(briefly(t)) }()
	ev.until(t, adit.StateClosing)
	close(release)
	if body := <-answer; body != "hello from /slow" {
		t.Errorf("the request that was under way: %q, want its answer", body)
	}
	if err := <-shut; err != nil {
		t.Errorf("http.Server.Shutdown: %v", err)
	}
	if err := l.Shutdown(briefly(t)); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// Several connections are one program to visitors, and one event.
func TestConnections(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	conns := make(chan struct{}, 100)
	var mu sync.Mutex
	var last net.Conn
	ev := newEvents()
	l := srv.Listen(t, adit.WithID("web"), adit.WithConnections(3), adit.WithCarrier("websocket"), ev.option(),
		adit.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			mu.Lock()
			last = c
			mu.Unlock()
			conns <- struct{}{}
			return c, err
		}))
	serve(t, l, hello)
	for range 3 {
		select {
		case <-conns:
		case <-time.After(patience):
			t.Fatal("it does not connect 3 times")
		}
	}
	for range 6 {
		if status, _, body := get(t, srv, l.URL()+"x"); status != 200 || body != "hello from /x" {
			t.Errorf("got %d %q", status, body)
		}
	}
	mu.Lock()
	last.Close()
	mu.Unlock()
	if status, _, _ := get(t, srv, l.URL()); status != 200 {
		t.Errorf("with a connection less: got %d, want 200", status)
	}
	if err := l.Shutdown(briefly(t)); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	connected := 0
	for {
		e := <-ev
		if e.State == adit.StateConnected {
			connected++
		}
		if e.State == adit.StateClosed {
			break
		}
	}
	if connected != 1 {
		t.Errorf("connected %d times, want it told once", connected)
	}
}
