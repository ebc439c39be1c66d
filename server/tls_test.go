package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"adit/agent"
	"adit/dialect"
	"adit/internal/testca"
	"adit/server"
)

// withTLS gives a server a port for TLS, with a certificate for the domain and
// the names below it.
func withTLS(t *testing.T, ca *testca.Authority, more ...func(*server.Options)) func(*server.Options) {
	return func(o *server.Options) {
		cert, key := ca.Files(t, testca.Server(domain, "*."+domain))
		o.TLS = &server.TLSOptions{Listen: "127.0.0.1:0", Certificates: []server.CertificateFiles{{Cert: cert, Key: key}}}
		for _, f := range more {
			f(o)
		}
	}
}

// secureVisitor returns a client for which every name is the TLS port, and that
// shows a certificate if it is asked for one.
func (f *fixture) secureVisitor(t *testing.T, roots *x509.CertPool, cert *tls.Certificate) *http.Client {
	t.Helper()
	c := &tls.Config{RootCAs: roots}
	if cert != nil {
		c.Certificates = []tls.Certificate{*cert}
	}
	tr := &http.Transport{
		TLSClientConfig:   c,
		ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, f.TLSAddr().String())
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

func TestTLSVisitorsAndAgents(t *testing.T) {
	t.Parallel()
	ca := testca.New(t)
	f := start(t, withTLS(t, ca))
	port := f.TLSAddr().Port()
	if want := fmt.Sprintf("https://%s:%d", domain, port); f.URL() != want {
		t.Errorf("got the URL %s, want %s", f.URL(), want)
	}
	// The agent comes through the same port.
	a := f.agent(t, func(o *agent.Options) {
		o.Server = "wss://" + f.TLSAddr().String()
		o.TLS = &tls.Config{RootCAs: ca.Pool}
	}, httpTunnel(t, "web", facts(t)))
	want := []string{fmt.Sprintf("https://web.%s:%d/", domain, port), fmt.Sprintf("https://%s:%d/web/", domain, port)}
	if got := a.up(t)[0].URLs; !slices.Equal(got, want) {
		t.Errorf("got the addresses %q, want %q", got, want)
	}
	v := f.secureVisitor(t, ca.Pool, nil)
	for _, url := range want {
		resp, body := fetch(t, v, "POST", url+"x", "abc")
		if resp.StatusCode != 200 || resp.ProtoMajor != 2 || !strings.HasPrefix(body, "POST /x proto=https ") {
			t.Errorf("%s: got %s %s %s", url, resp.Proto, resp.Status, body)
		}
	}
	// Beside it is the port without.
	if _, body := f.get(t, f.visitor(t), "web."+domain, "/x"); !strings.Contains(body, "proto=http ") {
		t.Errorf("without TLS: got %s", body)
	}
}

// echoTLS is an upstream that ends TLS with a certificate for these names.
func echoTLS(t *testing.T, ca *testca.Authority, names ...string) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.TLS.ServerName, r.Host, r.URL.Path)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server(names...))}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestTLSPassthrough(t *testing.T) {
	t.Parallel()
	ca, own := testca.New(t), testca.New(t)
	f := start(t, withTLS(t, ca))
	up := echoTLS(t, own, "shop."+domain, "www.example.org")
	a := f.agent(t, nil, newTunnel(t, agent.Tunnel{ID: "shop", Kind: dialect.TLS, Hostnames: []string{"www.example.org"}}, up),
		httpTunnel(t, "web", saying(t, "web")))
	port := f.TLSAddr().Port()
	want := []string{fmt.Sprintf("tls://www.example.org:%d", port), fmt.Sprintf("tls://shop.%s:%d", domain, port)}
	if got := a.up(t)[0].URLs; !slices.Equal(got, want) {
		t.Errorf("got the addresses %q, want %q", got, want)
	}
	v := f.secureVisitor(t, own.Pool, nil)
	for _, host := range []string{"www.example.org", "shop." + domain} {
		if resp, body := fetch(t, v, "GET", "https://"+host+"/x", ""); resp.StatusCode != 200 || body != host+" "+host+" /x" {
			t.Errorf("%s: got %s %s", host, resp.Status, body)
		}
	}
	terminated := f.secureVisitor(t, ca.Pool, nil)
	if _, err := terminated.Get("https://shop." + domain); err == nil {
		t.Error("the server has ended the TLS of a name whose upstream does")
	}
	// Through a conn for another name, and without TLS, nobody gets there.
	req, _ := http.NewRequest("GET", "https://web."+domain, nil)
	for _, host := range []string{"shop." + domain, "www.example.org"} {
		req.Host = host
		resp, err := terminated.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 421 {
			t.Errorf("%s on a conn for another name: got %s, want 421", host, resp.Status)
		}
		if status, body := f.get(t, f.visitor(t), host, "/"); status != 421 {
			t.Errorf("%s without TLS: got %d %s, want 421", host, status, body)
		}
	}
	if status, body := f.get(t, f.visitor(t), f.Addr().String(), "/shop/"); status != 421 {
		t.Errorf("by path: got %d %s, want 421", status, body)
	}
}

func TestTLSBindRefusals(t *testing.T) {
	t.Parallel()
	ca := testca.New(t)
	f, none := start(t, withTLS(t, ca)), start(t, nil)
	for _, tt := range []struct {
		name string
		on   *fixture
		bind dialect.Binding
		code dialect.BindCode
		want string
	}{
		{"no port for TLS", none, dialect.Binding{Kind: dialect.TLS}, dialect.BindInvalid, "--tls-listen"},
		{"public port", f, dialect.Binding{Kind: dialect.TLS, Port: 443}, dialect.BindInvalid, "port 443: only tcp"},
		{"HTTP/2", f, dialect.Binding{Kind: dialect.TLS, HTTP2: true}, dialect.BindInvalid, "only http"},
		{"policy of requests", f, dialect.Binding{Kind: dialect.TLS, Policy: []byte(`{"max_body":1}`)}, dialect.BindInvalid, "max_body"},
		{"name of another kind", f, dialect.Binding{Kind: dialect.TLS, ID: "web"}, dialect.BindTaken, `"web" is bound as http`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := tt.on.dialSession(t, tt.on.secret.Reveal())
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, err := s.Bind(ctx, dialect.Binding{Key: "1", Kind: dialect.HTTP, ID: "web"}); tt.bind.ID != "" && err != nil {
				t.Fatal(err)
			}
			tt.bind.Key = "2"
			if tt.bind.ID == "" {
				tt.bind.ID = "other"
			}
			_, err = s.Bind(ctx, tt.bind)
			be, _ := errors.AsType[*dialect.BindError](err)
			if be == nil || be.Code != tt.code || !strings.Contains(be.Reason, tt.want) {
				t.Errorf("got %v, want the code %s and %q", err, tt.code, tt.want)
			}
		})
	}
}

// A server without a certificate passes TLS on, and is no worse for it.
func TestTLSWithoutCertificates(t *testing.T) {
	t.Parallel()
	own := testca.New(t)
	f := start(t, func(o *server.Options) { o.TLS = &server.TLSOptions{Listen: "127.0.0.1:0"} })
	if want := fmt.Sprintf("http://%s:%d", domain, f.Addr().Port()); f.URL() != want {
		t.Errorf("got the URL %s, want %s", f.URL(), want)
	}
	f.agent(t, nil, newTunnel(t, agent.Tunnel{ID: "shop", Kind: dialect.TLS}, echoTLS(t, own, "shop."+domain))).up(t)
	v := f.secureVisitor(t, own.Pool, nil)
	if resp, body := fetch(t, v, "GET", "https://shop."+domain+"/x", ""); resp.StatusCode != 200 {
		t.Errorf("got %s %s", resp.Status, body)
	}
	if _, err := v.Get("https://web." + domain); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("another name: got %v, want the alert for that", err)
	}
}

// Hostnames of HTTP tunnels are served with the certificates that are for them.
func TestTLSHostnames(t *testing.T) {
	t.Parallel()
	ca := testca.New(t)
	cert, key := ca.Files(t, testca.Server("www.example.org"))
	f := start(t, withTLS(t, ca, func(o *server.Options) {
		o.TLS.Certificates = append(o.TLS.Certificates, server.CertificateFiles{Cert: cert, Key: key})
	}))
	a := f.agent(t, nil, newTunnel(t, agent.Tunnel{ID: "web", Kind: dialect.HTTP, Hostnames: []string{"www.example.org", "www.example.net"}}, saying(t, "web")))
	urls := a.up(t)[0].URLs
	want := []string{
		fmt.Sprintf("https://www.example.org:%d/", f.TLSAddr().Port()),
		fmt.Sprintf("http://www.example.net:%d/", f.Addr().Port()), // without a certificate
	}
	if len(urls) < 2 || !slices.Equal(urls[:2], want) {
		t.Errorf("got the addresses %q, want first %q", urls, want)
	}
	f.logs(t, "no certificate is for a hostname: visitors with TLS are refused")
	v := f.secureVisitor(t, ca.Pool, nil)
	if _, body := fetch(t, v, "GET", "https://www.example.org/x", ""); body != "web /x" {
		t.Errorf("got %q", body)
	}
	if _, err := v.Get("https://www.example.net/"); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("without a certificate: got %v, want the alert for that", err)
	}
	if status, body := f.get(t, f.visitor(t), "www.example.net", "/x"); status != 200 || body != "web /x" {
		t.Errorf("without TLS: got %d %q", status, body)
	}
}

// Reload, as on SIGHUP, takes new certificates for what comes next, and nothing
// of what is broken.
func TestTLSReload(t *testing.T) {
	t.Parallel()
	first, second := testca.New(t), testca.New(t)
	var files server.CertificateFiles
	f := start(t, withTLS(t, first, func(o *server.Options) { files = o.TLS.Certificates[0] }))
	f.agent(t, nil, httpTunnel(t, "web", saying(t, "web"))).up(t)
	old := f.secureVisitor(t, first.Pool, nil)
	fetch(t, old, "GET", "https://web."+domain+"/", "")

	if err := os.WriteFile(files.Key, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Reload(); err == nil || !strings.Contains(err.Error(), files.Key) {
		t.Errorf("Reload with a broken key: got %v, want an error that names the file", err)
	}
	fetch(t, f.secureVisitor(t, first.Pool, nil), "GET", "https://web."+domain+"/", "")

	second.Write(t, files.Cert, files.Key, testca.Server(domain, "*."+domain))
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	fetch(t, f.secureVisitor(t, second.Pool, nil), "GET", "https://web."+domain+"/", "")
	fetch(t, old, "GET", "https://web."+domain+"/", "") // its conn lives on
}

func TestDevTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := start(t, func(o *server.Options) {
		o.Domain = ""
		o.TLS = &server.TLSOptions{Listen: "127.0.0.1:0", DevDir: dir, Redirect: true}
	})
	if f.DevAuthority() != filepath.Join(dir, "dev-tls.pem") {
		t.Errorf("got the authority %q, want it in %s", f.DevAuthority(), dir)
	}
	pem, err := os.ReadFile(f.DevAuthority())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	a := f.agent(t, func(o *agent.Options) {
		o.Server = fmt.Sprintf("wss://localhost:%d", f.TLSAddr().Port())
		o.TLS = &tls.Config{RootCAs: roots}
	}, newTunnel(t, agent.Tunnel{ID: "web", Kind: dialect.HTTP, Hostnames: []string{"app.example.org"}}, saying(t, "web")))
	urls := a.up(t)[0].URLs
	port := f.TLSAddr().Port()
	for _, want := range []string{fmt.Sprintf("https://app.example.org:%d/", port), fmt.Sprintf("https://localhost:%d/web/", port)} {
		if !slices.Contains(urls, want) {
			t.Errorf("got the addresses %q, want %s among them", urls, want)
		}
	}
	v := f.secureVisitor(t, roots, nil)
	for _, url := range append(urls, fmt.Sprintf("https://web.localhost:%d/", port), fmt.Sprintf("https://127.0.0.1:%d/web/", port)) {
		if resp, body := fetch(t, v, "GET", url+"x", ""); resp.StatusCode != 200 || body != "web /x" {
			t.Errorf("%s: got %s %s", url, resp.Status, body)
		}
	}
	// Without TLS visitors are sent there, and agents are told.
	plain := f.visitor(t)
	plain.CheckRedirect = v.CheckRedirect
	resp, _ := fetch(t, plain, "GET", "http://web.localhost/a?b", "")
	if want := fmt.Sprintf("https://web.localhost:%d/a?b", port); resp.StatusCode != 308 || resp.Header.Get("Location") != want {
		t.Errorf("without TLS: got %s %q, want 308 to %s", resp.Status, resp.Header.Get("Location"), want)
	}
	if _, err := f.dialSession(t, f.secret.Reveal()); err == nil || !strings.Contains(err.Error(), "tls-required") {
		t.Errorf("agent without TLS: got %v, want that it needs it", err)
	}
}
