package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

func TestRulesFind(t *testing.T) {
	t.Parallel()
	const none = "none"
	for _, tt := range []struct {
		rules        Rules
		host, target string
		key, rest    string // key is none if there is no ID
	}{
		{Rules{Paths: true}, "any.test", "/demo/a/b?c", "/demo", "/a/b?c"},
		{Rules{Paths: true}, "127.0.0.1:80", "/demo", "/demo", "/"},
		{Rules{Paths: true}, "any.test", "/demo/", "/demo", "/"},
		{Rules{Paths: true}, "any.test", "/demo?x=1", "/demo", "/?x=1"},
		{Rules{Paths: true}, "any.test", "/demo//a", "/demo", "//a"},
		{Rules{Paths: true}, "any.test", "/de%2Fmo/a%2Fb", "/de%2Fmo", "/a%2Fb"},
		{Rules{Paths: true}, "any.test", "/de:mo@x/..", "/de:mo@x", "/.."},
		{Rules{Paths: true}, "any.test", "/", none, ""},
		{Rules{Paths: true}, "any.test", "/?x", none, ""},
		{Rules{Paths: true}, "any.test", "//demo/x", none, ""},
		{Rules{Hosts: true}, "demo.tunnel.test", "/a/b?c", "demo.tunnel.test", "/a/b?c"},
		{Rules{Hosts: true}, "DEMO.Tunnel.Test:8443", "/", "demo.tunnel.test", "/"},
		{Rules{Hosts: true}, "demo.tunnel.test.", "/", "demo.tunnel.test", "/"},
		{Rules{Hosts: true}, "a.b.tunnel.test", "/", "b.tunnel.test", "/"},
		{Rules{Hosts: true}, "tunnel.test", "/demo/", none, ""},
		{Rules{Hosts: true}, ".tunnel.test", "/demo/", none, ""},
		{Rules{Hosts: true}, "demo.tunnel.test.evil", "/demo/", none, ""},
		{Rules{Hosts: true}, "demotunnel.test", "/demo/", none, ""},
		{Rules{Hosts: true, Paths: true}, "demo.tunnel.test", "/other/", "demo.tunnel.test", "/other/"},
		{Rules{Hosts: true, Paths: true}, "tunnel.test", "/other/x", "/other", "/x"},
		{Rules{Paths: true, PathHosts: []string{"tunnel.test"}}, "Tunnel.Test:80", "/demo/x", "/demo", "/x"},
		{Rules{Paths: true, PathHosts: []string{"tunnel.test"}}, "[::1]:80", "/demo/x", "/demo", "/x"},
		{Rules{Paths: true, PathHosts: []string{"tunnel.test"}}, "elsewhere.test", "/demo/x", none, ""},
		{Rules{Paths: true, PathHosts: []string{"tunnel.test"}}, "tunnel.test.evil", "/demo/x", none, ""},
	} {
		key, rest, err := tt.rules.find("tunnel.test", []byte(tt.host), []byte(tt.target))
		if errors.Is(err, errNotFound) {
			key = none
		}
		if key != tt.key || string(rest) != tt.rest {
			t.Errorf("%+v of %s%s: got %q, %q, %v; want %q, %q", tt.rules, tt.host, tt.target, key, rest, err, tt.key, tt.rest)
		}
	}
}

// pathTunnel is a tunnel whose upstream is told the path.
type pathTunnel struct{ *tunneltest.Memory }

func (pathTunnel) PathHeader() string { return "X-Told-Path" }

// rulesSite serves handler under the ID "demo" with rules.
func rulesSite(t *testing.T, handler http.HandlerFunc, change ...func(*HTTPOptions)) string {
	t.Helper()
	tun := pathTunnel{startUpstream(t, handler)}
	opts := HTTPOptions{
		Router: routerFunc(func(_ context.Context, key string) (Target, error) {
			if key == "/demo" || key == "demo.tunnel.test" {
				return Target{Tunnel: tun}, nil
			}
			return Target{}, fmt.Errorf("%q: %w", key, ErrNoRoute)
		}),
		Domain: "tunnel.test",
		Own: func(r *http.Request) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "own %s", r.URL) })
		},
		Rules: &Rules{
			Hosts:     true,
			Paths:     true,
			OwnFields: []string{"x-own"},
			OwnPaths:  []string{"/__health__"},
			UserAgent: "nobody/1",
			Answer: func(code string, status int) (int, string) {
				return status, code + "\n"
			},
		},
	}
	for _, c := range change {
		c(&opts)
	}
	_, addr := startHTTP(t, opts)
	return addr
}

// Both relays make the same of a request: that of this package, and that of
// package net/http behind a request for the server itself.
func TestRulesRequests(t *testing.T) {
	t.Parallel()
	addr := rulesSite(t, func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Accept-Encoding")
		fmt.Fprintf(w, "%s %s %s %v", r.Method, r.RequestURI, r.Host, r.Header)
	})
	for _, tt := range []struct{ request, want string }{
		{"GET /demo/a%2Fb//c/?q=1%20x HTTP/1.1\r\nHost: v.test\r\nX-Multi: 1\r\nX-Multi: 2\r\nX-Forwarded-For: 192.0.2.1\r\n",
			"GET /a%2Fb//c/?q=1%20x v.test map[User-Agent:[nobody/1] X-Forwarded-For:[192.0.2.1] X-Multi:[1 2] X-Told-Path:[/demo/a/b//c/]]"},
		{"GET /demo HTTP/1.1\r\nHost: v.test\r\nUser-Agent: me\r\nX-Told-Path: /forged\r\nX-Real-Ip: 1\r\n",
			"GET / v.test map[User-Agent:[me] X-Real-Ip:[1] X-Told-Path:[/demo]]"},
		{"GET /demo?x=1 HTTP/1.1\r\nHost: v.test\r\nUser-Agent:\r\n", "GET /?x=1 v.test map[X-Told-Path:[/demo]]"},
		{"GET /demo/? HTTP/1.1\r\nHost: v.test\r\nUser-Agent: u\r\n", "GET /? v.test map[User-Agent:[u] X-Told-Path:[/demo/]]"},
		{"GET /_adit/x HTTP/1.1\r\nHost: demo.tunnel.test\r\nUser-Agent: u\r\n", "GET /_adit/x demo.tunnel.test map[User-Agent:[u] X-Told-Path:[/_adit/x]]"},
		{"GET /a HTTP/1.1\r\nHost: DEMO.tunnel.test:1\r\nUser-Agent: u\r\n", "GET /a DEMO.tunnel.test:1 map[User-Agent:[u] X-Told-Path:[/a]]"},
		{"GET /demo/a%0d%0ab HTTP/1.1\r\nHost: v.test\r\nUser-Agent: u\r\n", "GET /a%0d%0ab v.test map[User-Agent:[u] X-Told-Path:[/demo/a  b]]"},
		{"GET /demo/\xc3\xa9?\xc3\xa9 HTTP/1.1\r\nHost: v.test\r\nUser-Agent: u\r\n", "GET /%C3%A9?%C3%A9 v.test map[User-Agent:[u] X-Told-Path:[/demo/\xc3\xa9]]"},
		{"GET /demo/h HTTP/1.1\r\nHost: v.test\r\nUser-Agent: u\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy: x\r\nProxy-Authorization: Basic eA==\r\nAdit-Id: x\r\nx_real_ip: 2\r\n",
			"GET /h v.test map[Keep-Alive:[5] Proxy-Authorization:[Basic eA==] User-Agent:[u] X-Hop:[1] X-Told-Path:[/demo/h] X_real_ip:[2]]"},
		{"POST /demo/p HTTP/1.1\r\nHost: v.test\r\nUser-Agent: u\r\nContent-Length: 0\r\n", "POST /p v.test map[Content-Length:[0] User-Agent:[u] X-Told-Path:[/demo/p]]"},
	} {
		for _, behindOwn := range []bool{false, true} {
			c := dial(t, addr)
			if behindOwn {
				c.send("GET /__health__ HTTP/1.1\r\nHost: v.test\r\n\r\n")
				if _, body := c.response("GET"); body != "own /__health__" {
					t.Fatalf("the server itself answers %q", body)
				}
			}
			c.send("%s\r\n", tt.request)
			if _, body := c.response(tt.request[:4]); body != tt.want {
				t.Errorf("%q, behind another: %v:\n got %q\nwant %q", tt.request, behindOwn, body, tt.want)
			}
		}
	}
}

func TestRulesAnswers(t *testing.T) {
	t.Parallel()
	addr := rulesSite(t, func(w http.ResponseWriter, r *http.Request) {})
	for _, tt := range []struct {
		request string
		status  int
		body    string
	}{
		{"GET /nobody/x HTTP/1.1\r\nHost: v.test\r\n", 404, "unknown-name\n"},
		{"GET /__health__ HTTP/1.1\r\nHost: nobody.tunnel.test\r\n", 404, "unknown-name\n"},
		{"GET / HTTP/1.1\r\nHost: v.test\r\n", 404, "not-found\n"},
		{"GET //demo/x HTTP/1.1\r\nHost: v.test\r\n", 404, "not-found\n"},
		{"GET / HTTP/1.1\r\nHost: v.test\r\nX-Own: 1\r\n", 200, "own /"},
		{"GET /?x HTTP/1.1\r\nHost: demo.tunnel.test\r\nx-own: 1\r\n", 200, "own /?x"},
		{"OPTIONS * HTTP/1.1\r\nHost: v.test\r\n", 200, ""},
		{"POST /nobody HTTP/1.1\r\nHost: v.test\r\nContent-Length: 3\r\n\r\nabc", 404, "unknown-name\n"},
	} {
		c := dial(t, addr)
		request := tt.request
		if !strings.Contains(request, "\r\n\r\n") {
			request += "\r\n"
		}
		for i := range 2 { // the conn stays
			c.send("%s", request)
			resp, body := c.response("GET")
			if resp.StatusCode != tt.status || body != tt.body || resp.Header.Get("Adit-Error") != "" {
				t.Errorf("%q, time %d: got %d %q, %v; want %d %q", tt.request, i+1, resp.StatusCode, body, resp.Header, tt.status, tt.body)
			}
		}
	}
}

// What the upstream says goes to the visitor as it is.
func TestRulesResponses(t *testing.T) {
	t.Parallel()
	addr := rulesSite(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Location", "/elsewhere")
		h.Set("Set-Cookie", "a=b; Path=/; Domain=v.test")
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Proxy-Authenticate", "Basic")
		h.Set("Server_name", "x")
		w.WriteHeader(http.StatusFound)
	})
	c := dial(t, addr)
	c.send("GET /demo/x HTTP/1.1\r\nHost: v.test\r\n\r\n")
	resp, _ := c.response("GET")
	for name, want := range map[string]string{
		"Location": "/elsewhere", "Set-Cookie": "a=b; Path=/; Domain=v.test", "Keep-Alive": "timeout=5",
		"Proxy-Authenticate": "Basic", "Server_name": "x",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// dropping is a tunnel whose upstream closes each stream at the first request.
type dropping struct {
	*tunneltest.Memory
	opened atomic.Int32
}

func (d *dropping) OpenStream(ctx context.Context, info tunnel.StreamInfo) (net.Conn, error) {
	d.opened.Add(1)
	return d.Memory.OpenStream(ctx, info)
}

// A request that an upstream drops is not sent again on a new stream.
func TestRulesDoNotRepeat(t *testing.T) {
	t.Parallel()
	mem, l := tunneltest.NewMemory("demo")
	t.Cleanup(func() { mem.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				c.(tunnel.Incoming).Accept()
				c.Read(make([]byte, 1000))
				c.Close()
			}()
		}
	}()
	d := &dropping{Memory: mem}
	addr := rulesSite(t, nil, func(o *HTTPOptions) { o.Router = always(struct{ tunnel.Tunnel }{d}) })
	c := dial(t, addr)
	c.send("GET /web/x HTTP/1.1\r\nHost: v.test\r\n\r\n")
	if resp, body := c.response("GET"); resp.StatusCode != 502 || body != "upstream-closed\n" || d.opened.Load() != 1 {
		t.Errorf("got %d %q after %d streams, want 502 after one", resp.StatusCode, body, d.opened.Load())
	}
}

// once is a tunnel whose streams are for one request. It counts them.
type once struct {
	tunnel.Tunnel
	opened *atomic.Int64
}

type onceStream struct{ net.Conn }

func (once) OneRequest()       {}
func (onceStream) OneRequest() {}

func (o once) OpenStream(ctx context.Context, info tunnel.StreamInfo) (net.Conn, error) {
	o.opened.Add(1)
	c, err := o.Tunnel.OpenStream(ctx, info)
	return onceStream{c}, err
}

func TestOneRequestPerStream(t *testing.T) {
	t.Parallel()
	mem := startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "ok ", r.Header)
	}))
	var opened atomic.Int64
	_, addr := startHTTP(t, HTTPOptions{Router: always(once{mem, &opened}), Own: func(r *http.Request) http.Handler {
		if r.URL.Path != "/_adit/own" {
			return nil
		}
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "own") })
	}})
	c := dial(t, addr)
	ask := func(n int64) {
		t.Helper()
		for range 3 {
			c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
			if _, body := c.response("GET"); !strings.HasPrefix(body, "ok") || strings.Contains(body, "close") {
				t.Fatalf("got %q", body)
			}
		}
		if got := opened.Load(); got != n {
			t.Errorf("%d streams for %d requests", got, n)
		}
	}
	ask(3)
	// After one for the server itself it is package net/http that answers.
	c.send("GET /_adit/own HTTP/1.1\r\nHost: any\r\n\r\n")
	if _, body := c.response("GET"); body != "own" {
		t.Fatalf("got %q", body)
	}
	ask(6)
}
