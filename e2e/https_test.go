package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"adit/internal/testca"
)

// A tlsServer is a server with TLS, whose agents come with TLS too.
type tlsServer struct {
	*server
	tlsAddr   string
	ca        *testca.Authority
	caFile    string
	cert, key string // files
}

// startTLS starts a server with a certificate for the domain and the names
// below it.
func startTLS(t *testing.T, more ...string) *tlsServer {
	t.Helper()
	need(t, "go")
	s := &tlsServer{ca: testca.New(t), tlsAddr: "127.0.0.1:" + freePort(t)}
	s.caFile = s.ca.File(t)
	s.cert, s.key = s.ca.Files(t, testca.Server(domain, "*."+domain, "localhost"))
	s.server = startServer(t, append([]string{"--tls-listen", s.tlsAddr, "--tls-cert", s.cert, "--tls-key", s.key}, more...)...)
	return s
}

// agent starts an agent over wss and waits until its addresses are public.
func (s *tlsServer) agent(t *testing.T, args ...string) *process {
	t.Helper()
	_, port, _ := net.SplitHostPort(s.tlsAddr)
	a := start(t, "agent", aditCommand(slices.Concat([]string{binary}, args,
		[]string{"--server", "wss://localhost:" + port, "--ca-file", s.caFile, "--secret-file", s.secret})))
	a.waitLog(t, "an address", 20*time.Second, func(log string) bool { return strings.Contains(log, "->") })
	return a
}

func (s *tlsServer) url(name string) string {
	_, port, _ := net.SplitHostPort(s.tlsAddr)
	return "https://" + name + ":" + port
}

// curl runs curl with the server's authority, for any name.
func (s *tlsServer) curl(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, time.Minute, need(t, "curl"), append([]string{"-sS", "--max-time", "50", "--cacert", s.caFile, "--connect-to", "::" + s.tlsAddr}, args...)...)
}

// openssl runs openssl s_client for a name, and returns what it printed,
// whatever came of it.
func (s *tlsServer) openssl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, need(t, "openssl"), append([]string{"s_client", "-connect", s.tlsAddr, "-CAfile", s.caFile}, args...)...)
	c.Stdin = strings.NewReader(stdin)
	out, _ := c.CombinedOutput()
	return string(out)
}

func TestHTTPSWithCurl(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	s := startTLS(t)
	s.agent(t, "http", upstream(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, r.Host, r.Header.Get("X-Forwarded-Proto"), n)
	}), "--id", "web")
	const size = 3 << 20
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, size)
	_, port, _ := net.SplitHostPort(s.tlsAddr)
	for version, args := range map[string][]string{"2": {"--http2"}, "1.1": {"--http1.1"}, "1.1 ": {"--http1.1", "--tls-max", "1.2"}} {
		got := s.curl(t, append(args, "-w", "%{http_version} %{ssl_verify_result}", "-T", file, s.url("web."+domain)+"/")...)
		if want := fmt.Sprintf("web.%s:%s https %d\n%s 0", domain, port, size, strings.TrimSpace(version)); got != want {
			t.Errorf("%q: got %q, want %q", args, got, want)
		}
	}
	// What is not TLS is told so.
	if got := run(t, time.Minute, need(t, "curl"), "-s", "-w", "%{http_code}", "-o", os.DevNull, "http://"+s.tlsAddr+"/"); got != "400" {
		t.Errorf("plain HTTP at the port for TLS: got %s, want 400", got)
	}
}

// TestExpectContinueWithCurl lets curl hold a body back for half a minute, or
// until it is told to go on.
func TestExpectContinueWithCurl(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	s := startTLS(t)
	up := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, " ")
	})
	s.agent(t, "http", up, "--id", "plain")
	s.agent(t, "http", up, "--id", "rules", "--request-header", "X-Env: dev")
	for _, version := range []string{"--http1.1", "--http2"} {
		for _, id := range []string{"plain", "rules"} {
			for _, tt := range []struct{ path, want string }{{"/", "5 200"}, {"/no", "no\n401"}} {
				began := time.Now()
				got := s.curl(t, version, "--expect100-timeout", "30", "-H", "Expect: 100-continue", "--data", "hello", "-w", "%{http_code}", s.url(id+"."+domain)+tt.path)
				if took := time.Since(began); got != tt.want || took > 15*time.Second {
					t.Errorf("%s %s%s: got %q after %v, want %q at once", version, id, tt.path, got, took, tt.want)
				}
			}
		}
	}
}

func TestHTTP2WithoutTLSWithCurl(t *testing.T) {
	t.Parallel()
	curl := need(t, "curl")
	s := startServer(t, "--h2c")
	s.agent(t, "http", upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello ") }), "--id", "web")
	s.waitTunnel(t, "web")
	for _, version := range []string{"--http2-prior-knowledge", "--http1.1", "--http2"} {
		want := map[string]string{"--http2-prior-knowledge": "hello 2"}[version]
		if want == "" {
			want = "hello 1.1" // an offer to go on in h2c is not taken
		}
		if got := run(t, time.Minute, curl, "-sS", version, "-w", "%{http_version}", "--connect-to", "::"+s.addr, s.hostURL("web")+"/"); got != want {
			t.Errorf("%s: got %q, want %q", version, got, want)
		}
	}
}

func TestTLSWithOpenSSL(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	s := startTLS(t, "--hold", "1s") // unknown names are waited for just after the start
	own := testca.New(t)
	cert, key := own.Files(t, testca.Server("shop."+domain))
	port := freePort(t)
	up := start(t, "openssl s_server", exec.Command(need(t, "openssl"), "s_server", "-accept", port, "-cert", cert, "-key", key, "-www", "-quiet"))
	waitAccepts(t, up, "127.0.0.1:"+port)
	s.agent(t, "http", upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }), "--id", "web")
	s.agent(t, "tls", port, "--id", "shop")
	const request = "GET / HTTP/1.1\r\nHost: web." + domain + "\r\nConnection: close\r\n\r\n"
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"TLS 1.3", []string{"-servername", "web." + domain, "-alpn", "h2,http/1.1", "-tls1_3"}, []string{"CN = " + domain, "ALPN protocol: h2", "Verify return code: 0"}},
		{"TLS 1.2", []string{"-servername", "web." + domain, "-alpn", "http/1.1", "-tls1_2"}, []string{"ALPN protocol: http/1.1", "Verify return code: 0"}},
		{"TLS 1.1", []string{"-servername", "web." + domain, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}, []string{"protocol version"}},
		{"small records", []string{"-servername", "web." + domain, "-maxfraglen", "512"}, []string{"Verify return code: 0"}},
		{"no name", []string{"-noservername"}, []string{"CN = " + domain}},
		{"unknown name", []string{"-servername", "www.example.org"}, []string{"unrecognized name"}},
		{"unknown protocol", []string{"-servername", "web." + domain, "-alpn", "acme-tls/1"}, []string{"no application protocol"}},
		{"passed on", []string{"-servername", "shop." + domain}, []string{"CN = shop." + domain, "Verify return code: 2"}}, // another authority
	} {
		out := s.openssl(t, "", tt.args...)
		for _, want := range tt.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: openssl printed %q, want %q in it", tt.name, out, want)
			}
		}
	}
	if out := s.openssl(t, request, "-servername", "web."+domain, "-quiet", "-ign_eof"); !strings.HasSuffix(out, "hello") {
		t.Errorf("got %q, want the page", out)
	}
	if out := s.openssl(t, strings.ReplaceAll(request, "web.", "shop."), "-servername", "web."+domain, "-quiet", "-ign_eof"); !strings.Contains(out, "HTTP/1.1 421 ") {
		t.Errorf("a name that is passed on, on the conn of another: got %q, want 421", out)
	}
}

// Certificates are taken from files that have changed, by themselves and on
// SIGHUP, and nobody notices but by looking at them.
func TestCertificatesReload(t *testing.T) {
	t.Parallel()
	s := startTLS(t)
	s.agent(t, "http", upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }), "--id", "web")
	shown := func() *x509.Certificate {
		c, err := tls.Dial("tcp", s.tlsAddr, &tls.Config{ServerName: "web." + domain, RootCAs: s.ca.Pool})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0]
	}
	changed := func(from *x509.Certificate) func(context.Context) error {
		return func(context.Context) error {
			if shown().Equal(from) {
				return fmt.Errorf("still shows the certificate with the number %v", from.SerialNumber)
			}
			return nil
		}
	}
	first := shown()
	s.ca.Write(t, s.cert, s.key, testca.Server(domain, "*."+domain))
	eventually(t, "the file is noticed", 30*time.Second, changed(first))

	second := shown()
	if err := os.WriteFile(s.key, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(s.pid, syscall.SIGHUP)
	s.waitLog(t, "the complaint", 20*time.Second, func(log string) bool { return strings.Contains(log, "not reloaded") && strings.Contains(log, s.key) })
	if !shown().Equal(second) {
		t.Error("a broken key changed what is shown")
	}
	s.ca.Write(t, s.cert, s.key, testca.Server(domain, "*."+domain))
	syscall.Kill(s.pid, syscall.SIGHUP)
	eventually(t, "SIGHUP is heard", 30*time.Second, changed(second))
}

// A page with parts, in a browser that speaks HTTP/2.
func TestHTTPSInChromium(t *testing.T) {
	t.Parallel()
	chromium := need(t, "chromium")
	s := startTLS(t)
	s.agent(t, "http", upstream(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, `<!DOCTYPE html><title>page</title><p id=out></p><script>
const out = document.getElementById("out");
Promise.all([1, 2, 3].map(n => fetch("/part/" + n, {method: "POST", body: "b".repeat(1e5)}).then(r => r.text()))).then(parts => {
	const protocols = performance.getEntries().filter(e => e.nextHopProtocol).map(e => e.nextHopProtocol);
	out.textContent = parts.join(" ") + " " + [...new Set(protocols)].join();
});
</script>`)
		default:
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "%s:%d", r.URL.Path, n)
		}
	}), "--id", "web")
	leaf := s.shownCertificate(t)
	pin := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	out := run(t, time.Minute, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(),
		"--ignore-certificate-errors-spki-list="+base64.StdEncoding.EncodeToString(pin[:]),
		"--host-resolver-rules=MAP * 127.0.0.1", "--virtual-time-budget=10000", "--dump-dom", s.url("web."+domain)+"/")
	if want := `<p id="out">/part/1:100000 /part/2:100000 /part/3:100000 h2</p>`; !strings.Contains(out, want) {
		t.Errorf("the page became %q, want %q in it", out, want)
	}
}

func (s *tlsServer) shownCertificate(t *testing.T) *x509.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", s.tlsAddr, &tls.Config{ServerName: domain, RootCAs: s.ca.Pool})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// Visitors and agents who show certificates, as curl and adit do.
func TestMutualTLSWithCurl(t *testing.T) {
	t.Parallel()
	curl := need(t, "curl")
	visitors, agents := testca.New(t), testca.New(t)
	grants := filepath.Join(t.TempDir(), "grants.yaml")
	if err := os.WriteFile(grants, []byte("grants:\n- certificate: {cn: builder}\n  ids: [web]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startTLS(t, "--visitor-ca-file", visitors.File(t), "--agent-ca-file", agents.File(t), "--grants", grants)
	cert, key := agents.Files(t, testca.Client("builder"))
	_, port, _ := net.SplitHostPort(s.tlsAddr)
	a := start(t, "agent", aditCommand([]string{binary, "http", upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }),
		"--id", "web", "--server", "wss://localhost:" + port, "--ca-file", s.caFile, "--cert", cert, "--key", key}))
	a.waitLog(t, "an address", 20*time.Second, func(log string) bool { return strings.Contains(log, "->") })

	good, goodKey := visitors.Files(t, testca.Client("visitor"))
	other, otherKey := agents.Files(t, testca.Client("visitor"))
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"good", []string{"--cert", good, "--key", goodKey}, "hello 200"},
		{"another authority", []string{"--cert", other, "--key", otherKey}, "403"},
		{"none", nil, "403"},
	} {
		for _, version := range []string{"--http2", "--http1.1"} {
			got := run(t, time.Minute, curl, append([]string{"-sS", "--max-time", "50", "--cacert", s.caFile, "--connect-to", "::" + s.tlsAddr,
				version, "-w", " %{http_code}", s.url("web."+domain) + "/"}, tt.args...)...)
			if !strings.HasSuffix(got, tt.want) {
				t.Errorf("%s, %s: got %q, want %q", tt.name, version, got, tt.want)
			}
		}
	}
}
