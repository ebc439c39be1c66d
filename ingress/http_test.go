package ingress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/memnet"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

func TestKeepAliveAndPipelining(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	conns := map[string]bool{}
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, body)
		mu.Lock()
		defer mu.Unlock()
		conns[fmt.Sprint(r.Context().Value(http.LocalAddrContextKey), r.RemoteAddr)] = true
	})
	c := dial(t, addr)
	c.send("GET /1 HTTP/1.1\r\nHost: web\r\n\r\n" +
		"POST /2 HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc" +
		"POST /3 HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n" +
		"\r\nGET /4 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
	for _, want := range []string{"GET /1 ", "POST /2 abc", "POST /3 def", "GET /4 "} {
		if resp, got := c.response("GET"); got != want || resp.StatusCode != 200 {
			t.Errorf("got %d %q, want 200 %q", resp.StatusCode, got, want)
		}
	}
	c.closed()
}

func TestManyRequestsOnOneConn(t *testing.T) {
	t.Parallel()
	opened := 0
	m := startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) }))
	count := &countingTunnel{Tunnel: m, opened: &opened}
	_, addr := startHTTP(t, HTTPOptions{Router: always(count)})
	c := dial(t, addr)
	for i := range 100 {
		c.send("GET /%d HTTP/1.1\r\nHost: web\r\n\r\n", i)
		if _, got := c.response("GET"); got != fmt.Sprintf("/%d", i) {
			t.Fatalf("request %d: got %q", i, got)
		}
	}
	if opened != 1 {
		t.Errorf("%d streams opened for requests one after the other, want 1", opened)
	}
}

// A countingTunnel counts the streams, and does not open early.
type countingTunnel struct {
	tunnel.Tunnel
	opened *int
}

func (c *countingTunnel) OpenStream(ctx context.Context, info tunnel.StreamInfo) (net.Conn, error) {
	*c.opened++
	return c.Tunnel.OpenStream(ctx, info)
}

func TestHTTP10(t *testing.T) {
	t.Parallel()
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("one"))
		w.(http.Flusher).Flush() // chunked, to us
		w.Write([]byte("two"))
	})
	c := dial(t, addr)
	c.send("GET / HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n")
	raw, err := io.ReadAll(c.r)
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(string(raw), "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.0 200 OK") || body != "onetwo" || strings.Contains(head, "chunked") {
		t.Errorf("got %q, want an HTTP/1.0 response without chunks", raw)
	}

	addr = startSite(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })
	c = dial(t, addr)
	for _, path := range []string{"/a", "/b"} {
		c.send("GET %s HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n\r\n", path)
		resp, got := c.response("GET")
		if got != path || resp.Header.Get("Connection") != "keep-alive" {
			t.Errorf("got %q, Connection %q; want %q and keep-alive", got, resp.Header.Get("Connection"), path)
		}
	}
	c.send("GET /c HTTP/1.0\r\nHost: web\r\n\r\n")
	c.response("GET")
	c.closed()
}

func TestHead(t *testing.T) {
	t.Parallel()
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Etag", `"a"`)
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Length", "12345")
			if r.Method == "GET" {
				w.Write(make([]byte, 12345))
			}
		}
	})
	c := dial(t, addr)
	c.send("HEAD / HTTP/1.1\r\nHost: web\r\n\r\n")
	if resp, body := c.response("HEAD"); resp.ContentLength != 12345 || body != "" {
		t.Errorf("HEAD: length %d body %q; want 12345 and none", resp.ContentLength, body)
	}
	for _, path := range []string{"/204", "/304"} {
		c.send("GET %s HTTP/1.1\r\nHost: web\r\n\r\n", path)
		if resp, body := c.response("GET"); "/"+fmt.Sprint(resp.StatusCode) != path || body != "" {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
	c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	if _, body := c.response("GET"); len(body) != 12345 {
		t.Errorf("GET after HEAD: %d bytes, want 12345", len(body))
	}
	c.send("HEAD / HTTP/1.1\r\nHost: nobody\r\n\r\n")
	if resp, _ := c.response("HEAD"); resp.StatusCode != 404 || resp.ContentLength <= 0 {
		t.Errorf("HEAD of nothing: %d, length %d", resp.StatusCode, resp.ContentLength)
	}
}

func TestForwardedFields(t *testing.T) {
	t.Parallel()
	const spoofed = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n" +
		"X-Forwarded-Port: 1\r\nX_Forwarded_For: 9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\nForwarded: for=1.2.3.4\r\nAdit-Visitor: root\r\nX-Forwarded-Prefix: /p\r\n"
	for _, tt := range []struct {
		name    string
		trusted []netip.Prefix
		send    string
		want    map[string]string
	}{
		{"none", nil, "", map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "web:80", "Forwarded": `for=127.0.0.1;proto=http;host="web:80"`}},
		{"spoofed", nil, spoofed, map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "web:80", "Forwarded": `for=127.0.0.1;proto=http;host="web:80"`}},
		{"spoofed and named by Connection", nil, spoofed + "Connection: X-Forwarded-For, Forwarded, Host, X-Forwarded-Host\r\n",
			map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "web:80", "Forwarded": `for=127.0.0.1;proto=http;host="web:80"`}},
		{"trusted", []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, spoofed,
			map[string]string{"X-Forwarded-For": "1.2.3.4, 5.6.7.8, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil", "X-Forwarded-Port": "1",
				"X-Real-Ip": "9.9.9.9", "X-Forwarded-Prefix": "/p", "Forwarded": `for=1.2.3.4, for=127.0.0.1;proto=http;host="web:80"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := make(chan http.Header, 1)
			addr := startSite(t, func(w http.ResponseWriter, r *http.Request) { got <- r.Header },
				func(o *HTTPOptions) { o.TrustedProxies = tt.trusted })
			c := dial(t, addr)
			c.send("GET / HTTP/1.1\r\nHost: web:80\r\n%s\r\n", tt.send)
			c.response("GET")
			h := wait(t, "the request", got)
			for name, values := range h {
				if len(values) != 1 || values[0] != tt.want[name] {
					t.Errorf("upstream got %s: %q, want %q", name, values, tt.want[name])
				}
			}
			for name := range tt.want {
				if h.Get(name) == "" {
					t.Errorf("upstream got no %s", name)
				}
			}
		})
	}
}

func TestHopByHopFields(t *testing.T) {
	t.Parallel()
	got := make(chan http.Header, 1)
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header
		w.Header().Set("Connection", "X-Secret")
		w.Header().Set("X-Secret", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("Proxy-Authenticate", "Basic")
		w.Header().Set("Adit-Error", "fake")
		w.Header().Set("X-Kept", "1")
	})
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: web\r\nConnection: keep-alive, x-drop\r\nX-Drop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n" +
		"Proxy-Authorization: x\r\nProxy: x\r\nTE: gzip, trailers\r\nUpgrade: x\r\nX-Kept: 1\r\nAdit-Id: a\r\n\r\n")
	resp, _ := c.response("GET")
	h := wait(t, "the request", got)
	for _, name := range []string{"X-Drop", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy", "Upgrade", "Connection", "Adit-Id"} {
		if h.Get(name) != "" {
			t.Errorf("upstream got %s: %q", name, h.Get(name))
		}
	}
	if h.Get("Te") != "trailers" || h.Get("X-Kept") != "1" {
		t.Errorf("upstream got TE %q, X-Kept %q; want trailers, 1", h.Get("Te"), h.Get("X-Kept"))
	}
	for _, name := range []string{"X-Secret", "Keep-Alive", "Proxy-Authenticate", "Adit-Error"} {
		if resp.Header.Get(name) != "" {
			t.Errorf("visitor got %s: %q", name, resp.Header.Get(name))
		}
	}
	if resp.Header.Get("X-Kept") != "1" || resp.Header.Get("Date") == "" {
		t.Errorf("visitor got X-Kept %q, Date %q", resp.Header.Get("X-Kept"), resp.Header.Get("Date"))
	}
}

func TestShutdownDrains(t *testing.T) {
	t.Parallel()
	entered, release := make(chan bool, 1), make(chan bool)
	m := startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			entered <- true
			<-release
		}
		io.WriteString(w, "done")
	}))
	h, addr := startHTTP(t, HTTPOptions{Router: always(m)})
	idle, busy := dial(t, addr), dial(t, addr)
	idle.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	idle.response("GET")
	busy.send("GET /slow HTTP/1.1\r\nHost: web\r\n\r\n")
	wait(t, "the slow request", entered)

	down := make(chan error, 1)
	go func() { down <- h.Shutdown(context.Background()) }()
	idle.closed()
	close(release)
	resp, body := busy.response("GET")
	if body != "done" || !resp.Close {
		t.Errorf("request in progress: %q, close %v; want done, true", body, resp.Close)
	}
	busy.closed()
	if err := wait(t, "Shutdown", down); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("still accepts after Shutdown")
	}
}

func TestServeEndsWithContext(t *testing.T) {
	t.Parallel()
	m := startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	h := NewHTTP(HTTPOptions{Router: always(m)})
	defer h.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, l) }()
	c := dial(t, l.Addr().String())
	c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	c.response("GET")
	cancel()
	c.closed()
	if err := wait(t, "Serve", done); !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v, want context.Canceled", err)
	}
}

func TestMaxVisitors(t *testing.T) {
	t.Parallel()
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {}, func(o *HTTPOptions) { o.MaxVisitors = 1 })
	first := dial(t, addr)
	first.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	first.response("GET")
	second := dial(t, addr)
	if resp, _ := second.response("GET"); resp.StatusCode != 503 || resp.Header.Get("Adit-Error") != "too-many-visitors" {
		t.Errorf("one visitor too many: %d %s", resp.StatusCode, resp.Header.Get("Adit-Error"))
	}
	second.closed()
}

func TestHeadAndIdleTimeouts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		send   []string // before the visitor falls silent
		after  time.Duration
		status int // of the last answer; 0 if there is none
	}{
		{"silent from the start", nil, 10 * time.Second, 0},
		{"half a head", []string{"GET / HTTP/1.1\r\nHost:"}, 10 * time.Second, 408},
		{"idle after a response", []string{"GET / HTTP/1.1\r\nHost: web\r\n\r\n"}, 120 * time.Second, 404},
		{"half a head after a response", []string{"GET / HTTP/1.1\r\nHost: web\r\n\r\n", "GET"}, 10 * time.Second, 408},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := memnet.Listen("front")
				startOn(t, HTTPOptions{Router: always(startUpstream(t, http.NotFoundHandler()))}, l)
				conn, err := l.Dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				start := time.Now()
				var last string
				for _, s := range tt.send {
					io.WriteString(conn, s)
					synctest.Wait()
				}
				all, _ := io.ReadAll(conn)
				if i := strings.LastIndex(string(all), "HTTP/1.1 "); i >= 0 {
					last, _, _ = strings.Cut(string(all)[i:], "\r\n")
				}
				want := map[int]string{0: "", 404: "HTTP/1.1 404 Not Found", 408: "HTTP/1.1 408 Request Timeout"}[tt.status]
				if last != want {
					t.Errorf("last answer %q, want %q", last, want)
				}
				if d := time.Since(start); d < tt.after || d > tt.after*3/2 {
					t.Errorf("closed after %v, want about %v", d, tt.after)
				}
			})
		})
	}
}

func TestOnRequest(t *testing.T) {
	t.Parallel()
	done := make(chan Finished, 4)
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "hello")
	}, func(o *HTTPOptions) { o.OnRequest = func(f Finished) { done <- f } })
	c := dial(t, addr)
	c.send("POST /p?secret HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc")
	c.response("POST")
	f := wait(t, "OnRequest", done)
	if f.Method != "POST" || f.Host != "web" || f.Path != "/p" || f.Status != 200 || f.Sent != 5 || f.Received != 3 ||
		f.ID != "web" || f.Service != "site" || f.Code != "" || f.Remote != netip.MustParseAddrPort(c.LocalAddr().String()) {
		t.Errorf("got %+v", f)
	}
	c.send("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")
	c.response("GET")
	if f := wait(t, "OnRequest", done); f.Status != 404 || f.Code != "unknown-name" {
		t.Errorf("unknown name: got %+v", f)
	}
	c.send("bad\r\n")
	c.response("GET")
	if f := wait(t, "OnRequest", done); f.Status != 400 || f.Code != "bad-request" {
		t.Errorf("malformed: got %+v", f)
	}
}

func BenchmarkKeepAliveGET(b *testing.B) {
	m, l := tunneltest.NewMemory("web")
	defer m.Close()
	response := []byte("HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Mon, 02 Jan 2026 15:04:05 GMT\r\nContent-Type: text/plain\r\nContent-Length: 128\r\n\r\n" + strings.Repeat("x", 128))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				buf := make([]byte, 4096)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
						c.Write(response)
					}
				}
			}()
		}
	}()
	_, addr := startHTTP(b, HTTPOptions{Router: always(m)})
	request := []byte("GET /file HTTP/1.1\r\nHost: web\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n")
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		buf := make([]byte, 4096)
		for pb.Next() {
			if _, err := c.Write(request); err != nil {
				b.Error(err)
				return
			}
			for got := 0; got == 0 || !bytes.HasSuffix(buf[:got], []byte("xxxx")); {
				n, err := c.Read(buf[got:])
				if err != nil {
					b.Error(err)
					return
				}
				got += n
			}
		}
	})
}
