package ingress

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"adit/policy"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// A body that turns out too long while it is on its way is cut off: the
// upstream does not take it for whole.
func TestLongBodyOnItsWay(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		begun := make(chan struct{})
		over := make(chan error, 1)
		m := startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(begun)
			_, err := io.Copy(io.Discard, r.Body)
			over <- err
		}))
		g := newGuard(t, "web", policy.Policy{MaxBody: 100_000})
		opts := HTTPOptions{Router: routerFunc(func(context.Context, string) (Target, error) {
			return Target{Tunnel: m, Policy: g}, nil
		})}
		var addr string
		if way == "own" {
			_, addr = startHTTP(t, opts)
		} else {
			h := NewHTTP(opts)
			srv := httptest.NewServer(h)
			t.Cleanup(func() { srv.Close(); h.Close() })
			addr = srv.Listener.Addr().String()
		}
		c := dial(t, addr)
		c.send("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n")
		chunk := "2710\r\n" + strings.Repeat("x", 10_000) + "\r\n"
		for range 10 {
			c.send("%s", chunk)
		}
		wait(t, "the upstream to see the request", begun)
		c.send("1\r\ny\r\n")
		resp, _ := c.response("POST")
		if resp.StatusCode != 413 || resp.Header.Get("Adit-Error") != "body-too-large" {
			t.Errorf("%s: got %d %q, want 413", way, resp.StatusCode, resp.Header.Get("Adit-Error"))
		}
		if err := wait(t, "the upstream's end", over); err == nil {
			t.Errorf("%s: the upstream took the body for whole", way)
		}
	}
}

// Another target that is tried has a policy of its own, which decides anew; what
// was stripped for the first one is not for the second.
func TestPolicyOfEachTarget(t *testing.T) {
	t.Parallel()
	ended, l := tunneltest.NewMemory("web")
	l.Close()
	ended.Close()
	key, token := viewerKeyOf(t, "web")
	open := &policy.Policy{MaxBody: 1 << 20}
	for _, tt := range []struct {
		name          string
		first, second *policy.Policy
		want          int
		cookie        string // that the second upstream gets
		fallback      int    // through net/http, which does not make a request anew
	}{
		{"none and none", nil, nil, 200, "a=b; adit-viewer=" + token, 200},
		{"none and closed", nil, &policy.Policy{DenyIP: networks(t, "127.0.0.1")}, 403, "", 403},
		{"closed and none", &policy.Policy{DenyIP: networks(t, "127.0.0.1")}, nil, 403, "", 403},
		{"open and closed", open, &policy.Policy{DenyIP: networks(t, "127.0.0.1")}, 403, "", 403},
		{"open and open", open, &policy.Policy{MaxBody: open.MaxBody}, 200, "a=b; adit-viewer=" + token, 200},
		{"strips and does not", &policy.Policy{ViewerKeys: []policy.ViewerKey{key}}, open, 200, "a=b; adit-viewer=" + token, 502},
		{"does not strip and does", open, &policy.Policy{ViewerKeys: []policy.ViewerKey{key}}, 200, "a=b", 502},
		{"body of the second", open, &policy.Policy{MaxBody: 3}, 413, "", 413},
		{"body of the first", &policy.Policy{MaxBody: 3}, open, 413, "", 413},
		{"chunked", nil, &policy.Policy{MaxBody: 3}, 413, "", 502},
	} {
		for _, way := range ways {
			up := &seen{}
			good := startUpstream(t, up)
			guards := []*policy.Guard{nil, nil}
			for i, p := range []*policy.Policy{tt.first, tt.second} {
				if p != nil {
					guards[i] = newGuard(t, "web", *p)
				}
			}
			n := 0
			opts := HTTPOptions{Router: routerFunc(func(context.Context, string) (Target, error) {
				n++
				if n == 1 {
					return Target{Tunnel: ended, Policy: guards[0]}, nil
				}
				return Target{Tunnel: good, Policy: guards[1]}, nil
			})}
			want := tt.want
			var addr string
			if way == "own" {
				_, addr = startHTTP(t, opts)
			} else {
				want = tt.fallback
				h := NewHTTP(opts)
				srv := httptest.NewServer(h)
				t.Cleanup(func() { srv.Close(); h.Close() })
				addr = srv.Listener.Addr().String()
			}
			c := dial(t, addr)
			framing := "Content-Length: 5\r\n\r\n12345"
			if tt.name == "chunked" {
				framing = "Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n"
			}
			c.send("PUT / HTTP/1.1\r\nHost: web\r\nCookie: a=b; adit-viewer=%s\r\n%s", token, framing)
			resp, body := c.response("PUT")
			if resp.StatusCode != want {
				t.Errorf("%s, %s: got %d %s, want %d", way, tt.name, resp.StatusCode, body, want)
			}
			if want != 200 {
				if up.whole() > 0 {
					t.Errorf("%s, %s: the second upstream saw the request", way, tt.name)
				}
				continue
			}
			if len(up.requests) != 1 || up.bodies[0] != "12345" || up.requests[0].Header.Get("Cookie") != tt.cookie {
				t.Errorf("%s, %s: upstream got %q with %q, want 12345 with %q", way, tt.name, up.bodies, up.requests[0].Header["Cookie"], tt.cookie)
			}
		}
	}
}

// A guard that has let a request in is not asked again for the same request.
func TestPolicyIsAskedOnce(t *testing.T) {
	t.Parallel()
	ended, l := tunneltest.NewMemory("web")
	l.Close()
	ended.Close()
	good := startUpstream(t, &seen{})
	g := newGuard(t, "web", policy.Policy{Rate: policy.Rate{Count: 1, Per: time.Hour, Burst: 1}})
	n := 0
	_, addr := startHTTP(t, HTTPOptions{Router: routerFunc(func(context.Context, string) (Target, error) {
		n++
		return Target{Tunnel: []tunnel.Tunnel{ended, good}[n-1], Policy: g}, nil
	})})
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	if resp, body := c.response("GET"); resp.StatusCode != 200 {
		t.Errorf("got %d %s, want 200", resp.StatusCode, body)
	}
}
