package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/ingress"
	"adit/internal/testport"
	"adit/server"
)

// mount runs a server that is a handler of another one, which wrap makes. tls
// says what that speaks.
func mount(t *testing.T, secure bool, change func(*server.Options), wrap func(http.Handler) http.Handler) (*fixture, *httptest.Server) {
	t.Helper()
	var s *fixture
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := http.Handler(s)
		if wrap != nil {
			h = wrap(h)
		}
		h.ServeHTTP(w, r)
	}))
	s = start(t, func(o *server.Options) {
		o.Listen, o.Domain = "", ""
		if change != nil {
			change(o)
		}
		o.PublicURL = strings.ReplaceAll(o.PublicURL, "ADDR", ts.Listener.Addr().String())
	})
	if secure {
		ts.EnableHTTP2 = true
		ts.StartTLS()
	} else {
		ts.Start()
	}
	t.Cleanup(func() {
		s.stop() // before, since agents' conns are taken over
		ts.Close()
	})
	return s, ts
}

// mounted are the options of an agent of a mounted server.
func mounted(ts *httptest.Server, path string) func(*agent.Options) {
	return func(o *agent.Options) {
		o.Server = ts.URL + path
		if ts.Certificate() != nil {
			o.TLS = &tls.Config{RootCAs: ts.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
		}
	}
}

// facts is an upstream that answers with what it sees of a request.
func facts(t *testing.T) string {
	return upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "/home", http.StatusFound)
			return
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s proto=%s prefix=%s body=%s", r.Method, r.URL.Path,
			r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-Prefix"), b)
	})
}

func fetch(t *testing.T, c *http.Client, method, url, body string) (resp *http.Response, text string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err = c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// A server in another one with TLS takes agents, and visitors of both versions
// of HTTP.
func TestMountedWithTLS(t *testing.T) {
	t.Parallel()
	f, ts := mount(t, true, nil, nil)
	if f.URL() != "" || f.Addr().IsValid() {
		t.Errorf("URL %q, Addr %v: it cannot know them", f.URL(), f.Addr())
	}
	a := f.agent(t, mounted(ts, ""), httpTunnel(t, "app", facts(t)))
	url := a.up(t)[0].URLs[0]
	if want := ts.URL + "/app/"; url != want {
		t.Fatalf("URL %s, want %s", url, want)
	}
	h2 := ts.Client()
	tr := h2.Transport.(*http.Transport).Clone()
	tr.ForceAttemptHTTP2 = false
	tr.TLSClientConfig.NextProtos = []string{"http/1.1"}
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetHTTP1(true)
	defer tr.CloseIdleConnections()
	for want, c := range map[int]*http.Client{1: {Transport: tr}, 2: h2} {
		resp, body := fetch(t, c, "POST", url+"page", "hello")
		if resp.ProtoMajor != want {
			t.Errorf("HTTP/%d, want HTTP/%d", resp.ProtoMajor, want)
		}
		if want := "POST /page proto=https prefix=/app body=hello"; body != want {
			t.Errorf("HTTP/%d: got %q, want %q", resp.ProtoMajor, body, want)
		}
		resp, _ = fetch(t, c, "GET", ts.URL+"/nobody/", "")
		if resp.StatusCode != 503 && resp.StatusCode != 404 {
			t.Errorf("HTTP/%d: a name that nobody has: %d", resp.ProtoMajor, resp.StatusCode)
		}
	}
	if resp, body := fetch(t, h2, "GET", ts.URL+"/_adit/healthz", ""); resp.StatusCode != 200 {
		t.Errorf("healthz: %d %s", resp.StatusCode, body)
	}
	if resp, _ := fetch(t, h2, "GET", ts.URL+"/_adit/nothing", ""); resp.Header.Get("Adit-Error") != "not-found" {
		t.Errorf("a path of the server's own: %d %s, want not-found", resp.StatusCode, resp.Header.Get("Adit-Error"))
	}
}

// A server below a path leaves the others to the mux, and shows visitors its
// own.
func TestMountedBelowPath(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "the site") })
	var once sync.Once
	f, ts := mount(t, false, func(o *server.Options) { o.PublicURL = "http://ADDR/tools/tunnels/" }, func(h http.Handler) http.Handler {
		once.Do(func() { mux.Handle("/tools/tunnels/", h) })
		return mux
	})
	a := f.agent(t, mounted(ts, "/tools/tunnels"), httpTunnel(t, "app", facts(t)))
	urls := a.up(t)[0].URLs
	if want := ts.URL + "/tools/tunnels/app/"; len(urls) != 1 || urls[0] != want {
		t.Fatalf("URLs %s, want %s", urls, want)
	}
	c := ts.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, tt := range []struct{ path, want string }{
		{"/elsewhere", "the site"},
		{"/tools/tunnels/app/page", "GET /page proto=http prefix=/tools/tunnels/app body="},
		{"/tools/tunnels/app/", "GET / proto=http prefix=/tools/tunnels/app body="},
		{"/tools/tunnels/app/a%2Fb", "GET /a/b proto=http prefix=/tools/tunnels/app body="},
	} {
		if _, got := fetch(t, c, "GET", ts.URL+tt.path, ""); got != tt.want {
			t.Errorf("GET %s: got %q, want %q", tt.path, got, tt.want)
		}
	}
	for path, want := range map[string]string{
		"/tools/tunnels/app":      "/tools/tunnels/app/",
		"/tools/tunnels/app/away": "/tools/tunnels/app/home",
	} {
		if resp, _ := fetch(t, c, "GET", ts.URL+path, ""); resp.Header.Get("Location") != want {
			t.Errorf("GET %s: %d to %q, want %s", path, resp.StatusCode, resp.Header.Get("Location"), want)
		}
	}
	if resp, _ := fetch(t, c, "GET", ts.URL+"/tools/tunnels/_adit/readyz", ""); resp.StatusCode != 200 {
		t.Errorf("readyz: %d, want 200", resp.StatusCode)
	}

	// What does not begin with the path is not the server's, whoever asks it.
	w := httptest.NewRecorder()
	f.ServeHTTP(w, httptest.NewRequest("GET", "/app/", nil))
	if got := w.Header().Get("Adit-Error"); got != "not-found" {
		t.Errorf("outside of the path: %d %s, want not-found", w.Code, got)
	}
}

// Visitors upgrade through a server that is mounted, and its middleware.
func TestMountedUpgrade(t *testing.T) {
	t.Parallel()
	f, ts := mount(t, false, nil, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(middleware{w}, r) })
	})
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, rw)
	})
	f.agent(t, mounted(ts, ""), httpTunnel(t, "app", up)).up(t)
	c, err := net.Dial("tcp", ts.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "GET /app/ HTTP/1.1\r\nHost: x.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v; want 101", resp, err)
	}
	if line, err := r.ReadString('\n'); line != "hello\n" {
		t.Errorf("got %q, %v; want hello", line, err)
	}
}

// A middleware's ResponseWriter, as net/http wants it.
type middleware struct{ w http.ResponseWriter }

func (m middleware) Header() http.Header         { return m.w.Header() }
func (m middleware) Write(p []byte) (int, error) { return m.w.Write(p) }
func (m middleware) WriteHeader(status int)      { m.w.WriteHeader(status) }
func (m middleware) Unwrap() http.ResponseWriter { return m.w }

// When Run is to end, it waits for requests that have begun, and turns away
// others.
func TestMountedDrains(t *testing.T) {
	t.Parallel()
	f, ts := mount(t, false, nil, nil)
	entered, release := make(chan struct{}), make(chan struct{})
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
		io.WriteString(w, "slow answer")
	})
	f.agent(t, mounted(ts, ""), httpTunnel(t, "app", up)).up(t)
	answer := make(chan string, 1)
	go func() {
		resp, err := ts.Client().Get(ts.URL + "/app/")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		answer <- string(b)
	}()
	<-entered
	ended := make(chan error, 1)
	go func() { ended <- f.stop() }()
	f.logs(t, "draining")
	for {
		resp, _ := fetch(t, ts.Client(), "GET", ts.URL+"/_adit/healthz", "")
		if resp.Header.Get("Adit-Error") == "shutting-down" {
			break // it was still on its way there
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("Run: %v, with a request under way", err)
	default:
	}
	close(release)
	if got := <-answer; got != "slow answer" {
		t.Errorf("got %q, want the slow answer", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
	if resp, _ := fetch(t, ts.Client(), "GET", ts.URL+"/app/", ""); resp.StatusCode != 503 || resp.Header.Get("Adit-Error") != "shutting-down" {
		t.Errorf("after Run: %d %s, want 503 shutting-down", resp.StatusCode, resp.Header.Get("Adit-Error"))
	}
}

// A visitor who does not read does not hold up the end for longer than the grace
// period.
func TestMountedEndsStalled(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", secure), func(t *testing.T) {
			t.Parallel()
			f, ts := mount(t, secure, func(o *server.Options) { o.Grace = 50 * time.Millisecond }, nil)
			up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
				b := make([]byte, 1<<20)
				for r.Context().Err() == nil {
					if _, err := w.Write(b); err != nil {
						return
					}
				}
			})
			f.agent(t, mounted(ts, ""), httpTunnel(t, "app", up)).up(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "GET", ts.URL+"/app/", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := ts.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			ended := make(chan error, 1)
			go func() { ended <- f.stop() }()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("Run: %v, want nil", err)
				}
			case <-time.After(patience):
				t.Fatalf("Run has not ended after %v", patience)
			}
		})
	}
}

// A public TCP port needs no listener for the rest.
func TestMountedTCP(t *testing.T) {
	t.Parallel()
	port := testport.One(t)
	f, ts := mount(t, false, func(o *server.Options) { o.TCPPorts = []ingress.PortRange{{First: port, Last: port}} }, nil)
	f.agent(t, mounted(ts, ""), tcpTunnel(t, "raw", port, echo(t, "hello"))).up(t)
	if got := dialTCP(t, port, 5); got != "hello" {
		t.Errorf("got %q, want hello", got)
	}
}

// A domain has hostnames in a server that is mounted, too.
func TestMountedDomain(t *testing.T) {
	t.Parallel()
	f, ts := mount(t, false, func(o *server.Options) { o.Domain, o.PathMode = domain, false }, nil)
	_, port, _ := net.SplitHostPort(ts.Listener.Addr().String())
	a := f.agent(t, mounted(ts, ""), newTunnel(t, agent.Tunnel{ID: "app", Kind: dialect.HTTP}, facts(t)))
	if got, want := a.up(t)[0].URLs[0], "http://app."+domain+":"+port+"/"; got != want {
		t.Errorf("URL %s, want %s", got, want)
	}
	req, err := http.NewRequest("GET", ts.URL+"/page", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "app." + domain
	resp, err := ts.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "GET /page proto=http prefix= body=" {
		t.Errorf("got %q", b)
	}
}

func TestMountOptions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*server.Options)
		ok     bool
	}{
		{"path", func(o *server.Options) { o.PublicURL = "https://example.com/tunnels" }, true},
		{"slash", func(o *server.Options) { o.PublicURL = "https://example.com/" }, true},
		{"path and listener", func(o *server.Options) { o.PublicURL, o.Listen = "https://example.com/tunnels", "127.0.0.1:0" }, false},
		{"path and domain", func(o *server.Options) { o.PublicURL, o.Domain = "https://example.com/tunnels", domain }, false},
		{"path that is not clean", func(o *server.Options) { o.PublicURL = "https://example.com/a/../tunnels" }, false},
		{"double slash", func(o *server.Options) { o.PublicURL = "https://example.com//tunnels" }, false},
		{"encoded path", func(o *server.Options) { o.PublicURL = "https://example.com/a%20b" }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			opts := options(t, io.Discard, auth.NewSecret())
			opts.Listen, opts.Domain = "", ""
			tt.change(&opts)
			s, err := server.New(opts)
			if oe := (*server.OptionError)(nil); (err == nil) != tt.ok || err != nil && (!errors.As(err, &oe) || oe.Field != "PublicURL") {
				t.Errorf("New: %v, want success: %v", err, tt.ok)
			}
			if err == nil {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				s.Run(ctx)
			}
		})
	}
}
