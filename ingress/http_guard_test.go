package ingress

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/policy"
	"adit/tunnel"
)

// TestRouterAndGuardAgree sends requests that could be for one tunnel by one
// reading and for another by the next: in all of them, whoever reaches a tunnel
// has shown what that tunnel asks for. Elsewhere the route was once chosen by
// one credential field and access granted by another (CVE-2026-40910).
func TestRouterAndGuardAgree(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		t.Run(strings.ReplaceAll(way, "/", " "), func(t *testing.T) {
			t.Parallel()
			s := newGuardedSites(t, way)
			var wg sync.WaitGroup
			for worker := range 4 {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(42, uint64(worker)))
					for i := range 600 {
						s.try(t, r, fmt.Sprintf("%d.%d", worker, i))
					}
				})
			}
			wg.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, name := range siteNames {
				if s.reached[name] < 10 {
					t.Errorf("%s was reached %d times: the test shows nothing of it", name, s.reached[name])
				}
			}
		})
	}
}

var siteNames = []string{"open", "login", "other", "viewer", "inside"}

// guardedSites are tunnels that ask for different things.
type guardedSites struct {
	addr   string
	logins map[string]string // by site: what Authorization has to be
	tokens map[string]string // by site: viewer tokens

	mu      sync.Mutex // guards the fields below
	sent    map[string]*triedRequest
	reached map[string]int
}

// A triedRequest is a request with what it has shown.
type triedRequest struct {
	text           string
	authorizations []string
	viewers        []string // tokens in fields and cookies
	forwardedFor   []string
}

func newGuardedSites(t *testing.T, way string) *guardedSites {
	s := &guardedSites{
		logins:  map[string]string{"login": basic("alice", "one"), "other": basic("alice", "two")},
		tokens:  make(map[string]string),
		sent:    make(map[string]*triedRequest),
		reached: make(map[string]int),
	}
	key, token := viewerKeyOf(t, "viewer")
	_, s.tokens["other"] = viewerKeyOf(t, "other")
	s.tokens["viewer"] = token
	targets := make(map[string]Target)
	for name, p := range map[string]*policy.Policy{
		"open":   nil,
		"login":  {BasicAuth: []policy.Login{login(t, "alice", "one")}},
		"other":  {BasicAuth: []policy.Login{login(t, "alice", "two")}},
		"viewer": {ViewerKeys: []policy.ViewerKey{key}},
		"inside": {AllowIP: networks(t, "192.0.2.0/24")},
	} {
		target := Target{Tunnel: startUpstream(t, s.upstream(t, name))}
		if p != nil {
			target.Policy = newGuard(t, tunnel.ID(name), *p)
		}
		targets[name+".example.com"], targets["/"+name] = target, target
	}
	opts := HTTPOptions{
		Domain:         "example.com",
		PathMode:       true,
		TrustedProxies: networks(t, "127.0.0.0/8"),
		Router: routerFunc(func(_ context.Context, key string) (Target, error) {
			if to, ok := targets[key]; ok {
				return to, nil
			}
			return Target{}, ErrNoRoute
		}),
	}
	if way == "own" {
		_, s.addr = startHTTP(t, opts)
		return s
	}
	h := NewHTTP(opts)
	srv := httptest.NewServer(h)
	t.Cleanup(func() { srv.Close(); h.Close() })
	s.addr = srv.Listener.Addr().String()
	return s
}

// upstream is what is behind one tunnel. It knows what a request must have
// shown to get there.
func (s *guardedSites) upstream(t *testing.T, name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		sent := s.sent[r.Header.Get("X-Test")]
		if sent == nil {
			t.Errorf("%s got a request that nobody sent: %q", name, r.Header)
			return
		}
		s.reached[name]++
		ok := true
		switch name {
		case "login", "other":
			ok = len(sent.authorizations) == 1 && sent.authorizations[0] == s.logins[name]
		case "viewer":
			ok = slices.Contains(sent.viewers, s.tokens[name])
		case "inside":
			n := len(sent.forwardedFor)
			ok = n > 0 && strings.HasPrefix(sent.forwardedFor[n-1], "192.0.2.")
		}
		if !ok {
			t.Errorf("%s was reached without what it asks for:\n%s", name, sent.text)
		}
		for _, token := range s.tokens {
			if name == "viewer" && strings.Contains(fmt.Sprint(r.Header["Cookie"]), token) {
				t.Errorf("%s sees a viewer token:\n%s", name, sent.text)
			}
		}
		if name == "login" && r.Header["Authorization"] != nil {
			t.Errorf("%s sees a login:\n%s", name, sent.text)
		}
	})
}

// pick returns one of the choices.
func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// try sends one request that is made of contradictions.
func (s *guardedSites) try(t *testing.T, r *rand.Rand, id string) {
	site := func() string { return pick(r, siteNames...) }
	host := func() string {
		name := site() + ".example.com"
		return pick(r, name, name, name, name, strings.ToUpper(name), name+".", name+":80", "example.com", "127.0.0.1",
			"user@"+name, name+"@"+site()+".example.com", site()+" "+name, "example.com:0x50", "["+name+"]")
	}
	path := func() string {
		a, b := site(), site()
		return pick(r, "/", "/"+a+"/", "/"+a+"/x", "/"+a+"/../"+b+"/", "/%6"+a[1:]+"/", "//"+a+"/"+b+"/", "/"+a+"%2f.."+"%2f"+b+"/",
			"/"+a+";"+b+"/", "/"+a+"?/"+b+"/", "/./"+a+"/", "/"+strings.ToUpper(a)+"/", "/"+a+`\..\`+b)
	}
	target := pick(r, path(), path(), path(), path(), "http://"+host()+path(), "https://"+host(), "*")
	tried := &triedRequest{}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nX-Test: %s\r\nConnection: close\r\n", pick(r, "GET", "GET", "POST", "OPTIONS"), target, id)
	fmt.Fprintf(&b, "Host: %s\r\n", host())
	if r.IntN(10) == 0 {
		fmt.Fprintf(&b, "Host: %s\r\n", host())
	}
	for range r.IntN(3) {
		value := pick(r, s.logins["login"], s.logins["login"], s.logins["other"], s.logins["other"], basic("alice", "x"), "Bearer "+s.tokens["viewer"])
		name := pick(r, "Authorization", "Authorization", "Authorization", "authorization", "Proxy-Authorization", "X-Authorization")
		fmt.Fprintf(&b, "%s: %s\r\n", name, value)
		if strings.EqualFold(name, "authorization") {
			tried.authorizations = append(tried.authorizations, value)
			if token, ok := strings.CutPrefix(value, "Bearer "); ok {
				tried.viewers = append(tried.viewers, token)
			}
		}
	}
	for range r.IntN(3) {
		token := s.tokens[pick(r, "viewer", "viewer", "other")]
		before := pick(r, "Adit-Viewer: ", "Adit_Viewer: ", "Cookie: adit-viewer=", "Cookie: a=b; adit-viewer=", "Cookie2: adit-viewer=")
		fmt.Fprintf(&b, "%s%s\r\n", before, token)
		if before != "Adit_Viewer: " && before != "Cookie2: adit-viewer=" {
			tried.viewers = append(tried.viewers, token)
		}
	}
	for range r.IntN(3) {
		from := pick(r, "192.0.2.7", "192.0.2.7", "198.51.100.1", "198.51.100.1, 192.0.2.7", "192.0.2.7, 198.51.100.1", "unknown")
		name := pick(r, "X-Forwarded-For", "X-Forwarded-For", "X_Forwarded_For", "X-Real-IP", "Client-IP")
		fmt.Fprintf(&b, "%s: %s\r\n", name, from)
		if name == "X-Forwarded-For" {
			for node := range strings.SplitSeq(from, ", ") {
				tried.forwardedFor = append(tried.forwardedFor, node)
			}
		}
	}
	for _, name := range []string{"X-Forwarded-Host", "X-Original-URL", "X-Rewrite-URL", "X-Adit-Id", "Adit-Id", "X-Forwarded-Prefix"} {
		if r.IntN(6) == 0 {
			fmt.Fprintf(&b, "%s: %s\r\n", name, pick(r, host(), path(), site()))
		}
	}
	if r.IntN(8) == 0 {
		fmt.Fprintf(&b, "Connection: %s\r\n", pick(r, "Authorization", "Host", "X-Forwarded-For", "Cookie", "Adit-Viewer"))
	}
	b.WriteString("\r\n")
	tried.text = b.String()
	s.mu.Lock()
	s.sent[id] = tried
	s.mu.Unlock()

	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, tried.text)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Errorf("no response: %v\n%s", err, tried.text)
		return
	}
	resp.Body.Close()
}
