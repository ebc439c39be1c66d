package wayout_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/testca"
	"adit/internal/testtcp"
	"adit/internal/wayout"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// serve answers one conn after the other with f until the test ends.
func serve(t *testing.T, f func(net.Conn)) string {
	return testtcp.ServeInTurn(t, func(c net.Conn) {
		c.SetDeadline(time.Now().Add(patience))
		f(c)
	})
}

func via(s string) func(*url.URL) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return func(*url.URL) (*url.URL, error) { return u, nil }
}

var server = &url.URL{Scheme: "https", Host: "tunnel.example.com"}

// An httpProxy answers each connection's requests with its answers, in their
// order, and keeps what it was asked.
type httpProxy struct {
	mu      sync.Mutex // guards the fields below
	answers []string
	asked   []*http.Request
	conns   int
}

func (p *httpProxy) serve(c net.Conn) {
	p.mu.Lock()
	p.conns++
	p.mu.Unlock()
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		p.mu.Lock()
		if err != nil || len(p.answers) == 0 {
			p.mu.Unlock()
			return
		}
		answer := p.answers[0]
		p.asked, p.answers = append(p.asked, req), p.answers[1:]
		p.mu.Unlock()
		io.WriteString(c, answer)
		if answer == "" || strings.Contains(answer, "Connection: close") || strings.HasSuffix(answer, "speaks first") {
			return
		}
	}
}

const (
	wantsBasic = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"here\"\r\nContent-Length: 4\r\n\r\npage"
	opens      = "HTTP/1.1 200 Connection established\r\nVia: here\r\n\r\nthe server speaks first"
)

func TestConnect(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		user    string
		answers []string
		want    []string // Proxy-Authorization of each request
		conns   int
	}{
		{"no login", "", []string{opens}, []string{""}, 1},
		{"a login that nobody asks for", "me:pass@", []string{opens}, []string{""}, 1},
		{"Basic", "me:pass%20word@", []string{wantsBasic, opens}, []string{"", "Basic bWU6cGFzcyB3b3Jk"}, 1},
		{"Basic, and the connection ends", "me:pass%20word@",
			[]string{strings.Replace(wantsBasic, "\r\n", "\r\nConnection: close\r\n", 1), opens},
			[]string{"", "Basic bWU6cGFzcyB3b3Jk"}, 2},
		{"Basic, and the page has no end but that of the connection", "me:pass%20word@",
			[]string{"HTTP/1.1 407 No\r\nProxy-Authenticate: bAsIc\r\nConnection: close\r\n\r\npage", opens},
			[]string{"", "Basic bWU6cGFzcyB3b3Jk"}, 2},
		{"it does not say how", "me:pass@", []string{"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", opens}, []string{"", "Basic bWU6cGFzcw=="}, 1},
		{"Basic, and the connection ends without a word", "me:pass%20word@", []string{wantsBasic, "", opens},
			[]string{"", "Basic bWU6cGFzcyB3b3Jk", "Basic bWU6cGFzcyB3b3Jk"}, 2},
		{"first says that it goes on", "", []string{"HTTP/1.1 100 Continue\r\n\r\n" + opens}, []string{""}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := &httpProxy{answers: tt.answers}
			d := wayout.Dialer{Proxy: via("http://" + tt.user + serve(t, p.serve)), Timeout: patience}
			c, err := d.Dial(t.Context(), server)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got, err := io.ReadAll(c); string(got) != "the server speaks first" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			var got []string
			for _, r := range p.asked {
				if r.Method != "CONNECT" || r.Host != "tunnel.example.com:443" {
					t.Errorf("asked for %s %s", r.Method, r.Host)
				}
				got = append(got, r.Header.Get("Proxy-Authorization"))
			}
			if !slices.Equal(got, tt.want) || p.conns != tt.conns {
				t.Errorf("got %q on %d connections, want %q on %d", got, p.conns, tt.want, tt.conns)
			}
		})
	}
}

// socks answers a SOCKS5 handshake: method with the greeting, status with the
// login if that is 2, and reply with the request.
func socks(asked chan<- string, method, status, reply byte) func(net.Conn) {
	return func(c net.Conn) {
		b := make([]byte, 512)
		io.ReadFull(c, b[:2])
		io.ReadFull(c, b[:b[1]])
		c.Write([]byte{5, method})
		login := ""
		if method == 2 {
			for _, skip := range []int{1, 0} {
				if _, err := io.ReadFull(c, b[:skip+1]); err != nil {
					return
				}
				n := int(b[skip])
				io.ReadFull(c, b[:n])
				login += string(b[:n]) + " "
			}
			c.Write([]byte{1, status})
		}
		if _, err := io.ReadFull(c, b[:5]); err != nil {
			return
		}
		host := make([]byte, b[4])
		io.ReadFull(c, host)
		io.ReadFull(c, b[:2])
		if asked != nil {
			asked <- fmt.Sprintf("%s%s:%d", login, host, binary.BigEndian.Uint16(b))
		}
		c.Write([]byte{5, reply, 0, 3, 4, 'h', 'o', 's', 't', 0, 80})
		io.WriteString(c, "hello")
	}
}

func TestSOCKS5(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, user string
		method     byte
		want       string
	}{
		{"no login", "", 0, "tunnel.example.com:443"}, // the proxy looks the name up
		{"a login that it does not want", "me:secret@", 0, "tunnel.example.com:443"},
		{"login", "me:sec%40ret@", 2, "me sec@ret tunnel.example.com:443"},
		{"login without a password", "me@", 2, "me  tunnel.example.com:443"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan string, 1)
			d := wayout.Dialer{Proxy: via("socks5://" + tt.user + serve(t, socks(asked, tt.method, 0, 0)))}
			c, err := d.Dial(t.Context(), server)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got := <-asked; got != tt.want {
				t.Errorf("asked for %q, want %q", got, tt.want)
			}
			if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	answer := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, text)
		}
	}
	both := (&httpProxy{answers: []string{wantsBasic, wantsBasic}}).serve
	asTinyproxy := (&httpProxy{answers: []string{wantsBasic, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"}}).serve
	for name, tt := range map[string]struct {
		proxy  string
		serve  func(net.Conn)
		kind   wayout.Kind
		status int
		want   string
	}{
		"wants a login":       {"http://", answer(wantsBasic), wayout.LoginNeeded, 407, "it wants a login (it takes Basic)"},
		"refuses the login":   {"http://me:hidden@", both, wayout.LoginRefused, 407, "does not accept the login (it takes Basic)"},
		"refuses it with 401": {"http://me:hidden@", asTinyproxy, wayout.LoginRefused, 401, "it does not accept the login"},
		"wants another login": {"http://me:hidden@", answer("HTTP/1.1 407 No\r\nProxy-Authenticate: X hidden, Digest realm=\"x\"\r\nContent-Length: 0\r\n\r\n"), wayout.LoginNeeded, 407, "(it takes Digest)"},
		"does not say what":   {"http://", answer("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"), wayout.LoginNeeded, 407, "it wants a login"},
		"forbids":             {"http://me:hidden@", answer("HTTP/1.1 403 No\r\n\r\n"), wayout.Forbidden, 403, "it does not let tunnel.example.com:443 be reached: the answer is 403 Forbidden"},
		"has no way":          {"http://me:hidden@", answer("HTTP/1.1 503 No\r\n\r\n"), wayout.ServerUnreachable, 503, "it cannot reach tunnel.example.com:443: the answer is 503"},
		"is a web server":     {"http://me:hidden@", answer("HTTP/1.1 400 No\r\n\r\n"), wayout.NoProxy, 400, "refuses CONNECT: the answer is 400"},
		"is no proxy":         {"http://me:hidden@", answer("SSH-2.0-hidden\r\n"), wayout.NoProxy, 0, "read the answer: it is not HTTP"},
		"says nothing":        {"http://me:hidden@", func(net.Conn) {}, wayout.NoProxy, 0, "read the answer"},
		"answers for ever":    {"http://me:hidden@", answer("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), wayout.NoProxy, 0, "read the answer"},
		"a page for ever":     {"http://me:hidden@", answer("HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 9999999\r\n\r\n" + strings.Repeat("x", 1<<20)), wayout.LoginRefused, 407, "does not accept"},
		"interim for ever":    {"http://", answer(strings.Repeat("HTTP/1.1 103 Hints\r\n\r\n", 10000)), wayout.NoProxy, 0, "read the answer"},
		"unknown scheme":      {"ftp://me:hidden@", func(net.Conn) {}, wayout.Setting, 0, `scheme "ftp"`},
		"no TLS":              {"https://me:hidden@", answer("HTTP/1.1 400 No\r\n\r\n"), wayout.NoProxy, 0, "TLS: "},

		"SOCKS wants a login":         {"socks5://", socks(nil, 0xff, 0, 0), wayout.LoginNeeded, 0, "it wants a login"},
		"SOCKS refuses the login":     {"socks5h://me:hidden@", socks(nil, 2, 1, 0), wayout.LoginRefused, 0, "does not accept the login"},
		"SOCKS takes no login at all": {"socks5h://me:hidden@", socks(nil, 0xff, 1, 0), wayout.LoginRefused, 0, "neither a password nor none"},
		"SOCKS chooses by itself":     {"socks5://", socks(nil, 2, 0, 0), wayout.NoProxy, 0, "method 2"},
		"SOCKS forbids":               {"socks5://", socks(nil, 0, 0, 2), wayout.Forbidden, 0, "does not let tunnel.example.com:443 be reached: its rules forbid it"},
		"SOCKS has no way":            {"socks5://", socks(nil, 0, 0, 4), wayout.ServerUnreachable, 0, "cannot reach tunnel.example.com:443: host unreachable"},
		"SOCKS, unknown reason":       {"socks5://", socks(nil, 0, 0, 99), wayout.ServerUnreachable, 0, "unknown reason 99"},
		"SOCKS is HTTP":               {"socks5://me:hidden@", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 hidden\r\n\r\n") }, wayout.NoProxy, 0, "version 72"},
		"SOCKS says nothing":          {"socks5://", func(net.Conn) {}, wayout.NoProxy, 0, "SOCKS5: "},
		"a user that is too long":     {"socks5://" + strings.Repeat("x", 256) + ":hidden@", socks(nil, 2, 0, 0), wayout.Setting, 0, "255"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := serve(t, tt.serve)
			d := wayout.Dialer{Proxy: via(tt.proxy + addr), Timeout: patience}
			c, err := d.Dial(t.Context(), server)
			if err == nil {
				c.Close()
				t.Fatal("it was opened")
			}
			e, ok := errors.AsType[*wayout.Error](err)
			if !ok || e.Kind != tt.kind || e.StatusCode != tt.status || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %#v: %v; want %s, status %d and %q", e, err, tt.kind, tt.status, tt.want)
			}
			scheme, _, _ := strings.Cut(tt.proxy, "://")
			if want := scheme + "://" + addr; e.Proxy != want || e.Server != "tunnel.example.com:443" {
				t.Errorf("it names the proxy %s and the server %s, want %s", e.Proxy, e.Server, want)
			}
			if strings.Contains(err.Error(), "hidden") {
				t.Errorf("the password is in %q", err)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	d := wayout.Dialer{Proxy: via("http://me:hidden@" + l.Addr().String())}
	_, err = d.Dial(t.Context(), server)
	if e, ok := errors.AsType[*wayout.Error](err); !ok || e.Kind != wayout.Unreachable || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}

// TestProxyOverTLS checks the proxy's certificate.
func TestProxyOverTLS(t *testing.T) {
	t.Parallel()
	ca := testca.New(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server("127.0.0.1"))}}
	addr := serve(t, func(c net.Conn) {
		secured := tls.Server(c, config)
		(&httpProxy{answers: []string{opens}}).serve(secured)
		secured.CloseWrite()
	})
	d := wayout.Dialer{Proxy: via("https://" + addr), Timeout: patience}
	_, err := d.Dial(t.Context(), server)
	if e, ok := errors.AsType[*wayout.Error](err); !ok || e.Kind != wayout.Untrusted || e.Issuer == "" || !strings.Contains(err.Error(), e.Issuer) || !strings.HasPrefix(err.Error(), "proxy https://"+addr) {
		t.Errorf("got %v, want the issuer", err)
	}
	d.TLS = &tls.Config{RootCAs: ca.Pool}
	c, err := d.Dial(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); string(got) != "the server speaks first" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	addr := serve(t, func(net.Conn) { <-hold })
	defer close(hold)
	for name, dial := range map[string]func() (net.Conn, error){
		"of the dialer": func() (net.Conn, error) {
			d := wayout.Dialer{Proxy: via("http://" + addr), Timeout: 10 * time.Millisecond}
			return d.Dial(t.Context(), server)
		},
		"of the context": func() (net.Conn, error) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(10*time.Millisecond, cancel)
			d := wayout.Dialer{Proxy: via("http://" + addr)}
			return d.Dial(ctx, server)
		},
	} {
		if c, err := dial(); err == nil {
			c.Close()
			t.Errorf("%s: it was opened", name)
		}
	}
}

func TestFromEnvironment(t *testing.T) {
	t.Parallel()
	env := map[string]string{"HTTP_PROXY": "http://a:1", "https_proxy": "http://b:2", "NO_PROXY": "internal.example.com"}
	proxy := wayout.FromEnvironment(func(name string) string { return env[name] })
	for server, want := range map[string]string{
		"http://tunnel.example.com":    "http://a:1",
		"https://tunnel.example.com":   "http://b:2",
		"https://internal.example.com": "<nil>",
		"http://127.0.0.1:8080":        "<nil>",
		"http://localhost":             "<nil>",
	} {
		u, _ := url.Parse(server)
		p, err := proxy(u)
		got := "<nil>"
		if p != nil {
			got = p.String()
		}
		if got != want || err != nil {
			t.Errorf("%s: %s, %v, want %s", server, got, err, want)
		}
	}
	env["REQUEST_METHOD"] = "GET"
	proxy = wayout.FromEnvironment(func(name string) string { return env[name] })
	u, _ := url.Parse("http://tunnel.example.com")
	if p, err := proxy(u); err == nil {
		t.Errorf("HTTP_PROXY of a visitor of a CGI program: got %v, want an error", p)
	}
}

// TestEnvironment has the order of curl.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	const plain, secure = "ws://tunnel.example.com", "wss://tunnel.example.com"
	for _, tt := range []struct {
		name, server, want string
		env                map[string]string
	}{
		{"none", secure, "<nil>", nil},
		{"TLS", secure, "http://b:2", map[string]string{"http_proxy": "http://a:1", "https_proxy": "http://b:2", "all_proxy": "http://c:3"}},
		{"no TLS", plain, "http://a:1", map[string]string{"http_proxy": "http://a:1", "https_proxy": "http://b:2", "all_proxy": "http://c:3"}},
		{"lower case first", secure, "http://b:2", map[string]string{"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:2"}},
		{"upper case", secure, "http://a:1", map[string]string{"HTTPS_PROXY": "http://a:1", "all_proxy": "http://c:3"}},
		{"all", secure, "socks5h://c:3", map[string]string{"http_proxy": "http://a:1", "ALL_PROXY": "socks5h://c:3"}},
		{"without a scheme", secure, "http://b:2", map[string]string{"https_proxy": "b:2"}},
		{"exempt", secure, "<nil>", map[string]string{"https_proxy": "http://b:2", "NO_PROXY": ".example.com"}},
		{"exempt in lower case", secure, "http://b:2", map[string]string{"https_proxy": "http://b:2", "NO_PROXY": "*", "no_proxy": "other.example.com"}},
		{"this machine", "wss://localhost:1", "<nil>", map[string]string{"https_proxy": "http://b:2"}},
		{"CGI", plain, "<nil>", map[string]string{"HTTP_PROXY": "http://a:1", "REQUEST_METHOD": "GET"}},
		{"no CGI", plain, "http://a:1", map[string]string{"HTTP_PROXY": "http://a:1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := wayout.Dialer{Proxy: wayout.Environment(func(name string) string { return tt.env[name] })}
			u, _ := url.Parse(tt.server)
			p, err := d.Via(u)
			got := "<nil>"
			if p != nil {
				got = p.String()
			}
			if got != tt.want || err != nil {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
	d := wayout.Dialer{Proxy: wayout.Environment(func(name string) string {
		return map[string]string{"https_proxy": "http://me:hidden@%zz"}[name]
	})}
	_, err := d.Dial(t.Context(), server)
	if e, ok := errors.AsType[*wayout.Error](err); !ok || e.Kind != wayout.Setting || strings.Contains(err.Error(), "hidden") {
		t.Errorf("a malformed URL: %v", err)
	}
}
