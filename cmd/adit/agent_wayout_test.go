package main

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"adit/internal/hostile"
	"adit/internal/testca"
)

// An agent reaches its server through a proxy, wherever that is said.
func TestProxySettings(t *testing.T) {
	t.Parallel()
	_, server := startServer(t)
	addr := strings.TrimPrefix(server, "ws://")
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("sec:ret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	both := filepath.Join(t.TempDir(), "login")
	if err := os.WriteFile(both, []byte("me:sec:ret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		env  string // with PROXY for the proxy's address
		args []string
		warn bool
	}{
		{"flag", "", []string{"--proxy", "http://me:sec%3aret@PROXY"}, true},
		{"variable", "ADIT_PROXY=http://me:sec%3aret@PROXY", nil, false},
		{"file with the password", "", []string{"--proxy", "me@PROXY", "--proxy-password-file", password}, false},
		{"file with both", "ADIT_PROXY_PASSWORD_FILE=" + both, []string{"--proxy", "http://PROXY"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := hostile.NewProxy(t, hostile.ProxyOptions{Login: hostile.Basic("me", "sec:ret")})
			args := []string{"http", site(t), "--id", "id-" + strings.ReplaceAll(tt.name, " ", "-"), "--server", server, "--log-level", "info"}
			for _, a := range tt.args {
				args = append(args, strings.ReplaceAll(a, "PROXY", p.Addr))
			}
			env := []string{"ADIT_TOKEN=" + testSecret}
			if tt.env != "" {
				env = append(env, strings.ReplaceAll(tt.env, "=http://me:sec%3aret@PROXY", "=http://me:sec%3aret@"+p.Addr))
			}
			c := newCommand(t, env...).start(t, args...)
			c.out.wait(t, `http://\S+/id-\S+/ +-> `)
			if got, want := p.Asked(), []string{addr, addr + " Basic"}; !slices.Equal(got, want) {
				t.Errorf("the proxy was asked for %q, want %q", got, want)
			}
			c.err.wait(t, "through a proxy.*http://"+p.Addr)
			if got := strings.Contains(c.err.String(), "list of processes"); got != tt.warn {
				t.Errorf("it warns of the password: %v, want %v", got, tt.warn)
			}
			if all := c.err.String() + c.out.String(); strings.Contains(all, "sec") {
				t.Errorf("the password is shown: %s", all)
			}
		})
	}
}

// What is wrong with a proxy is said with what helps, and without the password.
func TestProxyReasons(t *testing.T) {
	t.Parallel()
	basic := hostile.NewProxy(t, hostile.ProxyOptions{Login: hostile.Basic("me", "secret")})
	windows := hostile.NewProxy(t, hostile.ProxyOptions{Login: hostile.NTLM("NTLM", "CORP", "me", "secret", "Negotiate")})
	digest := hostile.NewProxy(t, hostile.ProxyOptions{Login: func() hostile.Login {
		return func(string) (bool, []string) { return false, []string{`Digest realm="x"`} }
	}})
	strict := hostile.NewProxy(t, hostile.ProxyOptions{Refuse: func(string) int { return http.StatusForbidden }})
	for _, tt := range []struct {
		name, proxy string
		want        []string
	}{
		{"wants a login", "http://" + basic.Addr, []string{"proxy http://" + basic.Addr, "Basic", "--proxy-password-file"}},
		{"refuses the login", "http://me:hidden@" + basic.Addr, []string{"does not accept the login", "--proxy-password-file"}},
		{"wants a ticket or NTLM", "http://" + windows.Addr, []string{"it takes Negotiate, NTLM", "kinit", "--proxy-password-file"}},
		{"refuses NTLM", "http://me:hidden@" + windows.Addr, []string{"does not accept the login", `CORP\me`}},
		{"takes Digest alone", "http://me:hidden@" + digest.Addr, []string{"it takes Digest", "none of which adit knows"}},
		{"refuses the port", "http://me:hidden@" + strict.Addr, []string{"tunnel.example.com:8443", "403", "443 alone"}},
		{"is not there", "http://me:hidden@127.0.0.1:1", []string{"proxy http://127.0.0.1:1: connection refused", "--proxy"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCommand(t, "ADIT_TOKEN="+testSecret, "KRB5CCNAME=/nonexistent").start(t, "http", "3000", "--id", "web",
				"--server", "wss://tunnel.example.com:8443", "--proxy", tt.proxy)
			line := c.out.wait(t, `(.*)\n`)
			for _, want := range tt.want {
				if !strings.Contains(line, want) {
					t.Errorf("got %q, want %q in it", line, want)
				}
			}
			if all := c.err.String() + c.out.String(); strings.Contains(all, "hidden") {
				t.Errorf("the password is shown: %s", all)
			}
		})
	}
}

// What stands before the server sees the names and fields that it is to see.
func TestServerNames(t *testing.T) {
	t.Parallel()
	server, direct := startServer(t, "--public-url", "https://tunnel.example.com")
	t.Cleanup(func() { server.stop() })
	to, err := url.Parse(strings.Replace(direct, "ws", "http", 1))
	if err != nil {
		t.Fatal(err)
	}
	ca := testca.New(t)
	seen := make(chan *http.Request, 1)
	relay := httputil.NewSingleHostReverseProxy(to)
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case seen <- r.Clone(t.Context()):
		default:
		}
		relay.ServeHTTP(w, r)
	}))
	front.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server("front.example.com"))}}
	front.StartTLS()
	t.Cleanup(front.Close)
	c := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", site(t), "--id", "web",
		"--server", "wss://"+front.Listener.Addr().String(), "--ca-file", ca.File(t),
		"--sni", "front.example.com", "--server-host", "tunnel.example.com", "--server-header", "X-Env: dev",
		"--server-header-file", writeFile(t, "X-Pass: 1\nX-Pass: 2\n"))
	c.out.wait(t, `^(https://tunnel.example.com/web/) `)
	r := <-seen
	if r.TLS.ServerName != "front.example.com" || r.Host != "tunnel.example.com" || r.Header.Get("X-Env") != "dev" || len(r.Header["X-Pass"]) != 2 {
		t.Errorf("got name %q, host %q and %v", r.TLS.ServerName, r.Host, r.Header)
	}
	c.stop()
}

// A device that signs the server's certificate anew is named, with what helps;
// nothing is sent until the agent is told to trust it.
func TestResigned(t *testing.T) {
	t.Parallel()
	server, direct := startServer(t, "--public-url", "https://tunnel.example.com")
	t.Cleanup(func() { server.stop() })
	to, err := url.Parse(strings.Replace(direct, "ws", "http", 1))
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(to))
	t.Cleanup(front.Close)
	ca := testca.New(t)
	device := hostile.NewResigner(t, front.Listener.Addr().String(), &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server("tunnel.example.com"))}})
	without := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", "3000", "--id", "web", "--server", "wss://"+device)
	line := without.out.wait(t, `(.*)\n`)
	for _, want := range []string{ca.Cert.Subject.CommonName, "a device on the way", "--ca-file"} {
		if !strings.Contains(line, want) {
			t.Errorf("got %q, want %q in it", line, want)
		}
	}
	without.stop()
	with := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", site(t), "--id", "web", "--server", "wss://"+device, "--ca-file", ca.File(t))
	with.out.wait(t, `^(https://tunnel.example.com/web/) `)
	with.stop()
}

func TestWrongWayOut(t *testing.T) {
	t.Parallel()
	empty := writeFile(t, "\n")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--proxy", "ftp://me:hidden@proxy"}, `--proxy: scheme "ftp"`},
		{[]string{"--proxy", "http://me:hidden@proxy/path"}, "--proxy: it has more than a host"},
		{[]string{"--proxy", "http://me:hidden@%zz"}, "--proxy: malformed"},
		{[]string{"--proxy", "http://"}, "--proxy: the host is missing"},
		{[]string{"--proxy", "http://me:hidden@proxy", "--proxy-password-file", empty}, "want one of them"},
		{[]string{"--proxy", "http://me@proxy", "--proxy-password-file", empty}, "is empty"},
		{[]string{"--proxy", "http://proxy", "--proxy-password-file", writeFile(t, "hidden\n")}, "USER:PASSWORD"},
		{[]string{"--proxy", "http://proxy", "--proxy-password-file", writeFile(t, "me:hidden\nx\n")}, "more than one line"},
		{[]string{"--proxy-password-file", empty}, "--proxy, which is missing"},
		{[]string{"--proxy", "direct", "--proxy-password-file", empty}, "of no use"},
		{[]string{"--proxy-auth", "digest"}, `--proxy-auth "digest"`},
		{[]string{"--sni", "a_b"}, "--sni: "},
		{[]string{"--sni", "a.example.com", "--server", "ws://localhost:1"}, "--sni is of no use with ws://"},
		{[]string{"--server-host", "a b"}, `--server-host "a b"`},
		{[]string{"--server-header", "hidden"}, "--server-header: a field without ':'"},
		{[]string{"--server-header", "Host: hidden"}, "see --server-host"},
		{[]string{"--server-header", "Authorization: hidden"}, `header "Authorization"`},
		{[]string{"--server-header", "Adit-Id: hidden"}, `header "Adit-Id"`},
		{[]string{"--server-header", "Connection: hidden"}, `header "Connection"`},
		{[]string{"--server-header", "X-Env: hid\x01den"}, `header "X-Env"`},
		{[]string{"--server-header-file", empty}, "has no header field"},
	} {
		args := append([]string{"http", "3000", "--id", "web", "--server", "wss://tunnel.example.com"}, tt.args...)
		code, out, errOut := call(t, []string{"ADIT_TOKEN=" + testSecret}, args...)
		if code == exitDone || !strings.Contains(errOut, tt.want) || strings.Contains(out+errOut, "hidden") {
			t.Errorf("%q: got exit code %d and %q, want %q", tt.args, code, errOut, tt.want)
		}
	}
}
