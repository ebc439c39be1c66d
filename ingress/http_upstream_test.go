package ingress

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"adit/tunnel/tunneltest"
)

// startH2Upstream serves handler over HTTP/2 without TLS at the far side of a
// new tunnel.
func startH2Upstream(t testing.TB, handler http.Handler) *tunneltest.Memory {
	t.Helper()
	m, l := tunneltest.NewMemory("web")
	srv := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(answering{l}) })
	t.Cleanup(func() {
		srv.Close()
		m.Close()
		wg.Wait()
	})
	return m
}

// to routes everything to one target.
func to(target Target) routerFunc {
	return func(context.Context, string) (Target, error) { return target, nil }
}

// A visitor of HTTP/1.1 reaches an upstream of HTTP/2, with trailers both ways.
func TestHTTP2Upstream(t *testing.T) {
	t.Parallel()
	m := startH2Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "Announced")
		fmt.Fprintf(w, "%s %s %s %s %v", r.Proto, r.Method, r.URL, body, r.Trailer)
		w.Header().Set("Announced", "a")
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Adit-Error", "forged")
	}))
	_, addr := startHTTP(t, HTTPOptions{Router: to(Target{Tunnel: m, HTTP2: true})})
	c := dial(t, addr)
	for range 2 {
		c.send("POST /a?b=%zz;c HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nTrailer: Sum\r\nTransfer-Encoding: chunked\r\n\r\n" +
			"3\r\nabc\r\n0\r\nSum: 6\r\nX-Forwarded-For: forged\r\n\r\n")
		resp, body := c.response("POST")
		if want := "HTTP/2.0 POST /a?b=%zz;c abc map[Sum:[6]]"; resp.StatusCode != 200 || body != want {
			t.Errorf("got %d %q, want %q", resp.StatusCode, body, want)
		}
		if got, want := fmt.Sprint(resp.Trailer), "map[Announced:[a] Grpc-Status:[0]]"; got != want {
			t.Errorf("trailer: got %s, want %s", got, want)
		}
	}
}

func TestHTTP2UpstreamCannotUpgrade(t *testing.T) {
	t.Parallel()
	m := startH2Upstream(t, http.NotFoundHandler())
	_, addr := startHTTP(t, HTTPOptions{Router: to(Target{Tunnel: m, HTTP2: true})})
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if resp, body := c.response("GET"); resp.StatusCode != 502 || resp.Header.Get("Adit-Error") != "unsupported" {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
}

// What should speak HTTP/2 and does not is told apart from what is away.
func TestHTTP2UpstreamIsNot(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"HTTP/1.1": "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"no HTTP":  "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, l := tunneltest.NewMemory("web")
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					c, err := answering{l}.Accept()
					if err != nil {
						return
					}
					io.WriteString(c, answer)
					wg.Go(func() {
						io.Copy(io.Discard, c)
						c.Close()
					})
				}
			})
			t.Cleanup(wg.Wait)
			t.Cleanup(func() { m.Close() })
			_, addr := startHTTP(t, HTTPOptions{Router: to(Target{Tunnel: m, HTTP2: true})})
			c := dial(t, addr)
			c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
			if resp, body := c.response("GET"); resp.StatusCode != 502 || resp.Header.Get("Adit-Error") != "upstream-bad-response" {
				t.Errorf("got %d %s", resp.StatusCode, body)
			}
		})
	}
}

// A target whose upstream ends TLS is not for HTTP, also when it is chosen late.
func TestTLSTargetIsMisdirected(t *testing.T) {
	t.Parallel()
	m := startUpstream(t, http.NotFoundHandler())
	h, addr := startHTTP(t, HTTPOptions{Router: to(Target{Tunnel: m, TLS: true})})
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	if resp, body := c.response("GET"); resp.StatusCode != 421 || resp.Header.Get("Adit-Error") != "misdirected" {
		t.Errorf("relay: got %d %s", resp.StatusCode, body)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/", nil)
	r.Host = "web"
	h.ServeHTTP(w, r)
	if w.Code != 421 || w.Header().Get("Adit-Error") != "misdirected" {
		t.Errorf("fallback: got %d %s", w.Code, w.Body)
	}
}

// A request that net/http has parsed is sent again when that does no harm.
func TestFallbackRetries(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		method     string
		body       string
		script     []string
		second     bool // the first tunnel has ended, or refuses; there is another
		status     int
		code       string
		deliveries int
	}{
		{"idempotent", "GET", "", []string{"close", "ok"}, false, 200, "", 2},
		{"no more than three times", "GET", "", []string{"close"}, false, 502, "upstream-closed", 3},
		{"not idempotent", "POST", "", []string{"close", "ok"}, false, 502, "upstream-closed", 1},
		{"body that is gone", "PUT", "abc", []string{"close", "ok"}, false, 502, "upstream-closed", 1},
		{"refused by the only tunnel", "GET", "", []string{"refuse:3"}, false, 502, "upstream-refused", 0},
		{"refused by one of two", "POST", "abc", []string{"refuse:7"}, true, 200, "", 1},
		{"ended tunnel", "POST", "abc", nil, true, 200, "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			newAgent := func(script []string) (*tunneltest.Memory, *scriptedAgent) {
				m, l := tunneltest.NewMemory("web")
				a := &scriptedAgent{script: script}
				var wg sync.WaitGroup
				wg.Go(func() { a.serve(l) })
				t.Cleanup(func() {
					m.Close()
					wg.Wait()
				})
				return m, a
			}
			first, agent := newAgent(tt.script)
			others, last := first, agent
			if tt.second {
				others, last = newAgent([]string{"ok"})
			}
			if tt.script == nil {
				first.Close()
			}
			var routed atomic.Int32
			h, _ := startHTTP(t, HTTPOptions{Router: routerFunc(func(context.Context, string) (Target, error) {
				if routed.Add(1) == 1 {
					return Target{Tunnel: first}, nil
				}
				return Target{Tunnel: others}, nil
			})})
			srv := httptest.NewServer(h)
			defer srv.Close()
			req, err := http.NewRequestWithContext(t.Context(), tt.method, srv.URL, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "web"
			resp, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != tt.status || resp.Header.Get("Adit-Error") != tt.code {
				t.Errorf("got %d %q, want %d %q", resp.StatusCode, resp.Header.Get("Adit-Error"), tt.status, tt.code)
			}
			last.mu.Lock()
			defer last.mu.Unlock()
			if len(last.deliveries) != tt.deliveries {
				t.Errorf("got deliveries %q, want %d", last.deliveries, tt.deliveries)
			}
			for _, d := range last.deliveries {
				if tt.status == 200 && !strings.HasSuffix(d, tt.body) {
					t.Errorf("got the delivery %q, want the body %q", d, tt.body)
				}
			}
		})
	}
}

// What net/http lets pass and our own parser does not is refused.
func TestFallbackIsStrict(t *testing.T) {
	t.Parallel()
	up := startUpstream(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the upstream got %s %s", r.Method, r.RequestURI)
	}))
	h, _ := startHTTP(t, HTTPOptions{Router: to(Target{Tunnel: up})})
	for name, change := range map[string]func(*http.Request){
		"method":           func(r *http.Request) { r.Method = "GET /x HTTP/1.1\r\nX: y" },
		"space in query":   func(r *http.Request) { r.URL.RawQuery, r.RequestURI = "a b", "/?a b" },
		"another host":     func(r *http.Request) { r.Header.Set("Host", "other") },
		"lengths":          func(r *http.Request) { r.Header["Content-Length"] = []string{"1", "2"} },
		"a bad host":       func(r *http.Request) { r.Host = "web/../x" },
		"no host":          func(r *http.Request) { r.Host = "" },
		"line end in name": func(r *http.Request) { r.Header["A\r\nB"] = []string{"c"} },
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = "web"
		change(r)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != 400 || w.Header().Get("Adit-Error") != "bad-request" {
			t.Errorf("%s: got %d %s", name, w.Code, w.Body)
		}
	}
}
