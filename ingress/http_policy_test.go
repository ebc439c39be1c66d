package ingress

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"adit/policy"
	"adit/tunnel"
)

func newGuard(t testing.TB, id tunnel.ID, p policy.Policy) *policy.Guard {
	t.Helper()
	g, err := policy.NewGuard(id, p)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func networks(t testing.TB, list ...string) (out []netip.Prefix) {
	t.Helper()
	for _, s := range list {
		p, err := policy.ParsePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func login(t testing.TB, user, password string) policy.Login {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	l, err := policy.ParseLogin(user + ":" + string(hash))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// viewerKeyOf returns the key of an ID, and a token for it.
func viewerKeyOf(t testing.TB, id tunnel.ID) (policy.ViewerKey, string) {
	t.Helper()
	key, err := policy.NewViewerKey([]byte("a master key, long enough"), id)
	if err != nil {
		t.Fatal(err)
	}
	token, err := policy.MintViewer(key, id, policy.Viewer{Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return key, token
}

// A seen is what upstreams got.
type seen struct {
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
	errs     []error // of reading the bodies
}

func (s *seen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
	s.bodies = append(s.bodies, string(body))
	s.errs = append(s.errs, err)
	io.WriteString(w, "upstream")
}

// whole returns the number of requests that came to their end.
func (s *seen) whole() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, err := range s.errs {
		if err == nil {
			n++
		}
	}
	return n
}

// startGuarded runs an ingress in front of an upstream under p, and returns its
// address. Requests go through the relay of its own, or through net/http.
func startGuarded(t testing.TB, way string, p policy.Policy, change ...func(*HTTPOptions)) (h *HTTP, addr string, s *seen) {
	t.Helper()
	s = &seen{}
	m := startUpstream(t, s)
	g := newGuard(t, "web", p)
	opts := HTTPOptions{PathMode: true, Router: routerFunc(func(_ context.Context, key string) (Target, error) {
		if key != "web" && key != "/web" {
			return Target{}, ErrNoRoute
		}
		return Target{Tunnel: m, Service: "site", Policy: g}, nil
	})}
	for _, f := range change {
		f(&opts)
	}
	if way == "own" {
		h, addr = startHTTP(t, opts)
		return h, addr, s
	}
	h = NewHTTP(opts)
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		srv.Close()
		h.Close()
	})
	return h, srv.Listener.Addr().String(), s
}

// ways are those through which requests go.
var ways = []string{"own", "net/http"}

func TestPolicyAnswers(t *testing.T) {
	t.Parallel()
	key, token := viewerKeyOf(t, "web")
	for _, tt := range []struct {
		name    string
		policy  policy.Policy
		request string // after "GET / HTTP/1.1\r\nHost: web\r\n", or all of it
		status  int
		code    string
		field   string // of the answer, or of what the upstream got
	}{
		{"nobody in particular", policy.Policy{MaxBody: 1}, "", 200, "", ""},
		{"address", policy.Policy{AllowIP: networks(t, "192.0.2.0/24")}, "", 403, "address-not-allowed", ""},
		{"address allowed", policy.Policy{AllowIP: networks(t, "127.0.0.0/8")}, "", 200, "", ""},
		{"spoofed address", policy.Policy{AllowIP: networks(t, "192.0.2.0/24")}, "X-Forwarded-For: 192.0.2.1\r\n", 403, "address-not-allowed", ""},
		{"no login", policy.Policy{BasicAuth: []policy.Login{login(t, "a", "b")}}, "", 401, "login-required", `Www-Authenticate: Basic realm="web", charset="UTF-8"`},
		{"wrong login", policy.Policy{BasicAuth: []policy.Login{login(t, "a", "b")}}, "Authorization: " + basic("a", "c") + "\r\n", 401, "login-required", `Www-Authenticate: Basic realm="web", charset="UTF-8"`},
		{"login", policy.Policy{BasicAuth: []policy.Login{login(t, "a", "b")}}, "Authorization: " + basic("a", "b") + "\r\n", 200, "", "-Authorization"},
		{"login passed on", policy.Policy{BasicAuth: []policy.Login{login(t, "a", "b")}, PassAuthorization: true}, "Authorization: " + basic("a", "b") + "\r\n", 200, "", "+Authorization: " + basic("a", "b")},
		{"login of others", policy.Policy{MaxBody: 1}, "Authorization: " + basic("a", "b") + "\r\n", 200, "", "+Authorization: " + basic("a", "b")},
		{"no token", policy.Policy{ViewerKeys: []policy.ViewerKey{key}}, "", 401, "viewer-token-required", `Www-Authenticate: Bearer realm="web"`},
		{"token", policy.Policy{ViewerKeys: []policy.ViewerKey{key}}, "Adit-Viewer: " + token + "\r\n", 200, "", "-Adit-Viewer"},
		{"token of bearer", policy.Policy{ViewerKeys: []policy.ViewerKey{key}}, "Authorization: Bearer " + token + "\r\n", 200, "", "-Authorization"},
		{"cookie", policy.Policy{ViewerKeys: []policy.ViewerKey{key}}, "Cookie: a=b; adit-viewer=" + token + "; c=d\r\n", 200, "", "+Cookie: a=b; c=d"},
		{"cookie alone", policy.Policy{ViewerKeys: []policy.ViewerKey{key}}, "Cookie: adit-viewer=" + token + "\r\n", 200, "", "-Cookie"},
		{"cookie and bearer of the upstream", policy.Policy{ViewerKeys: []policy.ViewerKey{key}}, "Authorization: Bearer x\r\nCookie: adit-viewer=" + token + "\r\n", 200, "", "+Authorization: Bearer x"},
		{"cookies of others", policy.Policy{MaxBody: 1}, "Cookie: adit-viewer=" + token + "\r\n", 200, "", "+Cookie: adit-viewer=" + token},
		{"no certificate", policy.Policy{VisitorCA: testCA}, "", 403, "certificate-required", ""},
		{"link", policy.Policy{ViewerKeys: []policy.ViewerKey{key}}, "GET /a?x=1&adit-viewer=" + token + " HTTP/1.1\r\nHost: web\r\n", 303, "", "Location: /a?x=1"},
		{"link in path mode", policy.Policy{ViewerKeys: []policy.ViewerKey{key}}, "GET /web/a?adit-viewer=" + token + "&x=1 HTTP/1.1\r\nHost: localhost\r\n", 303, "", "Location: /web/a?x=1"},
		{"body", policy.Policy{MaxBody: 5}, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\n12345", 200, "", ""},
		{"long body", policy.Policy{MaxBody: 5}, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 6\r\n\r\n123456", 413, "body-too-large", ""},
		{"long body that waits", policy.Policy{MaxBody: 5}, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 600000000\r\nExpect: 100-continue\r\n\r\n", 413, "body-too-large", ""},
		{"chunks", policy.Policy{MaxBody: 5}, "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n12\r\n3\r\n345\r\n0\r\n\r\n", 200, "", ""},
		{"long chunks", policy.Policy{MaxBody: 5}, "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n12\r\n4\r\n3456\r\n0\r\n\r\n", 413, "body-too-large", ""},
	} {
		for _, way := range ways {
			t.Run(tt.name+" through "+way, func(t *testing.T) {
				t.Parallel()
				_, addr, up := startGuarded(t, way, tt.policy)
				c := dial(t, addr)
				switch request := tt.request; {
				case strings.Contains(request, "\r\n\r\n"):
					c.send("%s", request)
				case strings.Contains(request, " HTTP/1.1"):
					c.send("%s\r\n", request)
				default:
					c.send("GET / HTTP/1.1\r\nHost: web\r\n%s\r\n", request)
				}
				resp, body := c.response("GET")
				if resp.StatusCode != tt.status || resp.Header.Get("Adit-Error") != tt.code {
					t.Fatalf("got %d %q %s, want %d %q", resp.StatusCode, resp.Header.Get("Adit-Error"), body, tt.status, tt.code)
				}
				if tt.status != 200 {
					if n := up.whole(); n > 0 {
						t.Errorf("the upstream saw the request")
					}
					if tt.code != "" && !strings.Contains(body, tt.code) {
						t.Errorf("body %q, want the code in it", body)
					}
				}
				if strings.Contains(fmt.Sprint(resp.Header["Location"]), token) {
					t.Errorf("the token is still in the address: %q", resp.Header["Location"])
				}
				name, value, _ := strings.Cut(strings.TrimLeft(tt.field, "+-"), ": ")
				switch {
				case tt.field == "":
				case tt.field[0] == '-':
					if got := up.requests[0].Header[name]; got != nil {
						t.Errorf("upstream got %s %q, want none", name, got)
					}
				case tt.field[0] == '+':
					if got := up.requests[0].Header[name]; len(got) != 1 || got[0] != value {
						t.Errorf("upstream got %s %q, want %q", name, got, value)
					}
				default:
					if got := resp.Header[name]; len(got) != 1 || got[0] != value {
						t.Errorf("visitor got %s %q, want %q", name, got, value)
					}
				}
			})
		}
	}
}

func TestPolicyRate(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		_, addr, _ := startGuarded(t, way, policy.Policy{Rate: policy.Rate{Count: 3, Per: time.Minute, Burst: 2}})
		c := dial(t, addr)
		for i, want := range []int{200, 200, 429, 429} {
			c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
			resp, _ := c.response("GET")
			if resp.StatusCode != want {
				t.Errorf("%s: request %d: got %d, want %d", way, i+1, resp.StatusCode, want)
			}
			if retry := resp.Header.Get("Retry-After"); want == 429 && retry != "20" {
				t.Errorf("%s: Retry-After %q, want 20", way, retry)
			}
		}
	}
}

// The policy of the whole server and that of the tunnel both have to let a
// visitor in, and the shorter body counts. It can be replaced at any time.
func TestPolicyOfServer(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		h, addr, up := startGuarded(t, way, policy.Policy{MaxBody: 5})
		get := func(host, body string) (int, string) {
			c := dial(t, addr)
			c.send("POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", host, len(body), body)
			resp, _ := c.response("GET")
			return resp.StatusCode, resp.Header.Get("Adit-Error")
		}
		for _, tt := range []struct {
			name   string
			server *policy.Policy
			host   string
			body   string
			want   string
		}{
			{"none", nil, "web", "12345", "200 "},
			{"none, and too long", nil, "web", "123456", "413 body-too-large"},
			{"shorter", &policy.Policy{MaxBody: 2}, "web", "123", "413 body-too-large"},
			{"longer", &policy.Policy{MaxBody: 9}, "web", "123456", "413 body-too-large"},
			{"denied", &policy.Policy{DenyIP: networks(t, "127.0.0.1")}, "web", "", "403 address-not-allowed"},
			{"denied, and learns no names", &policy.Policy{DenyIP: networks(t, "127.0.0.1")}, "nothing", "", "403 address-not-allowed"},
			{"allowed", &policy.Policy{AllowIP: networks(t, "127.0.0.1")}, "web", "", "200 "},
			{"none again", nil, "web", "", "200 "},
		} {
			if tt.server == nil {
				h.SetPolicy(nil)
			} else {
				h.SetPolicy(newGuard(t, "", *tt.server))
			}
			status, code := get(tt.host, tt.body)
			if got := fmt.Sprint(status, " ", code); got != tt.want {
				t.Errorf("%s, %s: got %q, want %q", way, tt.name, got, tt.want)
			}
		}
		if n := up.whole(); n != 3 {
			t.Errorf("%s: the upstream saw %d requests, want 3", way, n)
		}
	}
}

// Only the agent's own word goes through, and only if its policy says that it
// has one.
func TestAgentErrors(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		for _, tt := range []struct {
			allowed    bool
			sent, want string
		}{
			{true, "signature-invalid", "signature-invalid"},
			{true, "made-up", ""},
			{true, "unknown-name", ""},
			{false, "signature-invalid", ""},
		} {
			m := startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Adit-Error", tt.sent)
				w.Header().Set("Adit-Other", "x")
				w.WriteHeader(403)
			}))
			var g *policy.Guard
			if tt.allowed {
				g = newGuard(t, "web", policy.Policy{AgentErrors: true})
			}
			var codes []string
			opts := HTTPOptions{
				Router:    routerFunc(func(context.Context, string) (Target, error) { return Target{Tunnel: m, Policy: g}, nil }),
				OnRequest: func(f Finished) { codes = append(codes, f.Code) },
			}
			var h *HTTP
			var addr string
			if way == "own" {
				h, addr = startHTTP(t, opts)
			} else {
				h = NewHTTP(opts)
				srv := httptest.NewServer(h)
				addr = srv.Listener.Addr().String()
				t.Cleanup(srv.Close)
			}
			c := dial(t, addr)
			c.send("GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
			resp, _ := c.response("GET")
			if got := resp.Header.Get("Adit-Error"); got != tt.want || resp.Header.Get("Adit-Other") != "" {
				t.Errorf("%s, %s: got %q, want %q", way, tt.sent, got, tt.want)
			}
			c.closed()
			h.Close()
			if len(codes) != 1 || codes[0] != tt.want {
				t.Errorf("%s, %s: reported as %q, want %q", way, tt.sent, codes, tt.want)
			}
		}
	}
}

// What an upstream leaves open stays open.
func TestNoContentTypeIsGuessed(t *testing.T) {
	t.Parallel()
	m := startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		io.WriteString(w, "<html>")
	}))
	h := NewHTTP(HTTPOptions{Router: always(m)})
	srv := httptest.NewServer(h)
	t.Cleanup(func() { srv.Close(); h.Close() })
	c := dial(t, srv.Listener.Addr().String())
	c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	if resp, body := c.response("GET"); body != "<html>" || resp.Header["Content-Type"] != nil {
		t.Errorf("got %q with Content-Type %q, want none", body, resp.Header["Content-Type"])
	}
}

// The codes that agents answer with are those of the list.
func TestAgentErrorsAreDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	for code := range agentErrors {
		if !strings.Contains(string(doc), "| `"+code+"` |") {
			t.Errorf("docs/errors.md has no row of %s", code)
		}
	}
}

// testCA is the certificate of an authority.
const testCA = `-----BEGIN CERTIFICATE-----

MIIBazCCARGgAwIBAgIBATAKBggqhkjOPQQDAjAcMRowGAYDVQQDExFleGFtcGxl
IGF1dGhvcml0eTAgFw0yNjAxMDEwMDAwMDBaGA8yMDU2MDEwMTAwMDAwMFowHDEa
MBgGA1UEAxMRZXhhbXBsZSBhdXRob3JpdHkwWTATBgcqhkjOPQIBBggqhkjOPQMB
BwNCAASuWOVhmwEHZzjyMEH/amnMxzhpXzpJ6n0LQr+7lmAUaLhzhyFdAW4780yc
L1QxeD0UiuUlCLOFAZCHmXn6dLyIo0IwQDAOBgNVHQ8BAf8EBAMCAgQwDwYDVR0T
AQH/BAUwAwEB/zAdBgNVHQ4EFgQUwsgurL51Gi0MVjsAog0yvuiz/1AwCgYIKoZI
zj0EAwIDSAAwRQIgXpYiQJMuxuJQVpxbd2laXbstTdm+HAY+5G6iRuCSiuoCIQD2
M+AHnk1tpWVecqS0C65NBTr/ZjjP+/nwmEEknQZxKg==
-----END CERTIFICATE-----
`
