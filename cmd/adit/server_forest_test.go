package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/dialect/forest"
	"adit/internal/testca"
	"adit/internal/testport"
)

// A forestSetup is the files of a server of forest/tunnel, and of who connects
// to it.
type forestSetup struct {
	t   *testing.T
	dir string
	ca  *testca.Authority
}

func newForestSetup(t *testing.T) *forestSetup {
	f := &forestSetup{t: t, dir: t.TempDir(), ca: testca.New(t)}
	if err := os.WriteFile(f.file("ca.crt"), f.ca.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	f.ca.Write(t, f.file("server.crt"), f.file("server.key"), testca.Server("forest.test"))
	for _, name := range []string{"home", "automation"} {
		f.ca.Write(t, f.file(name+".crt"), f.file(name+".key"), testca.Client(name+"@example.com"))
	}
	return f
}

func (f *forestSetup) file(name string) string { return filepath.Join(f.dir, name) }

// config writes the server's JSON file with some keys changed.
func (f *forestSetup) config(port int, change map[string]any) string {
	keys := map[string]any{
		"UseTls": true, "ListenPort": port, "Domain": "example.com", "CaCertificateFilesGlob": f.file("ca.crt"),
		"ServerTlsCertificateFile": f.file("server.crt"), "ServerTlsKeyFile": f.file("server.key"),
		"ManagementCommonNames": []string{"automation@example.com"},
	}
	for k, v := range change {
		keys[k] = v
	}
	b, err := json.Marshal(keys)
	if err != nil {
		f.t.Fatal(err)
	}
	path := filepath.Join(f.t.TempDir(), "server.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// agent connects as home to addr, by the name forest.test.
func (f *forestSetup) agent(addr string, services map[string]string) {
	f.t.Helper()
	a, err := forest.NewAgent(forest.AgentConfig{UseTls: true, ClientIdentifier: "home", ServerAddr: "forest.test:443", CaCertificateFilesGlob: f.file("ca.crt"),
		ClientTlsCertificateFile: f.file("home.crt"), ClientTlsKeyFile: f.file("home.key"), ServiceToLocalAddrMap: services},
		forest.AgentOptions{DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			if strings.HasPrefix(to, "forest.test:") {
				to = addr
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		}})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("Run of the agent: got %v, want nil", err)
		}
	})
}

// put sends a set of tunnels with the certificate of a name.
func (f *forestSetup) put(as, addr, set string) (int, string) {
	f.t.Helper()
	pair, err := tls.LoadX509KeyPair(f.file(as+".crt"), f.file(as+".key"))
	if err != nil {
		f.t.Fatal(err)
	}
	c := visitorOf(addr, &tls.Config{RootCAs: f.ca.Pool, Certificates: []tls.Certificate{pair}})
	defer c.CloseIdleConnections()
	req, _ := http.NewRequest(http.MethodPut, "https://forest.test/tunnels", strings.NewReader(set))
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// visitorOf returns a client for which every name is at addr.
func visitorOf(addr string, config *tls.Config) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		TLSClientConfig: config, ForceAttemptHTTP2: true, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}}
}

// siteWithTLS is an upstream that alone has the key of its certificate.
func siteWithTLS(t *testing.T, ca *testca.Authority, name, says string) (addr string) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, says) }))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server(name))}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// One port serves HTTPS that the server ends, tunnels of adit tls, tunnels of
// forest/tunnel, and its clients and management.
func TestServerSharesItsPortWithForest(t *testing.T) {
	t.Parallel()
	f := newForestSetup(t)
	web := testca.New(t)
	port := int(testport.One(t))
	addr := fmt.Sprint("127.0.0.1:", port)
	cert, certKey := web.Files(t, testca.Server("tunnel.test", "*.tunnel.test"))
	key := writeFile(t, testSecret)
	config := f.config(port, nil)
	serve := func() *command {
		return newCommand(t).start(t, "server", "--listen", "none", "--tls-listen", addr, "--tls-cert", cert, "--tls-key", certKey,
			"--domain", "tunnel.test", "--secret-file", key, "--forest-config", config)
	}
	s := serve()
	s.err.wait(t, `"server started"`)
	agent := func(args ...string) {
		a := newCommand(t).start(t, append(args, "--server", "wss://127.0.0.1:"+fmt.Sprint(port), "--ca-file", web.File(t), "--secret-file", key)...)
		a.out.wait(t, "://")
	}
	agent("http", site(t), "--id", "app")
	agent("tls", siteWithTLS(t, web, "shop.test", "of adit tls"), "--id", "shop", "--hostname", "shop.test")
	f.agent(addr, map[string]string{
		"web":  siteWithTLS(t, web, "*.home.test", "of forest"),
		"rest": siteWithTLS(t, web, "else.test", "of forest's rest"),
	})
	s.err.wait(t, "client home connected")

	entry := func(glob, service string, port int) string {
		return fmt.Sprintf(`{"ClientIdentifier":"home","ListenAddress":"0.0.0.0","ListenPort":%d,"ListenHostnameGlob":%q,"BackEndService":%q}`, port, glob, service)
	}
	list := func(all ...string) string { return "[" + strings.Join(all, ",") + "]" }
	local := func(set string) string { return strings.ReplaceAll(set, "0.0.0.0", "127.0.0.1") }
	set := local(list(entry("*.home.test", "web", port), entry("*.test", "rest", port), entry("*", "rest", port), entry("app.tunnel.test", "web", port)))
	if status, text := f.put("home", addr, set); status != 403 {
		t.Errorf("PUT with a client's certificate: got %d %s, want 403", status, text)
	}
	if status, text := f.put("automation", addr, local(list(entry("*", "web", 1)))); status != 500 {
		t.Errorf("PUT with another port: got %d %s, want 500", status, text)
	}
	s.err.wait(t, "tunnels are at "+addr+" alone here")
	if status, text := f.put("automation", addr, set); status != 200 {
		t.Fatalf("PUT: got %d %s, want 200", status, text)
	}

	visit := func(name string) string {
		c := visitorOf(addr, &tls.Config{RootCAs: web.Pool})
		defer c.CloseIdleConnections()
		resp, err := c.Get("https://" + name + "/")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	check := func(when string) {
		t.Helper()
		for name, want := range map[string]string{
			"app.tunnel.test": "the site", // names below the server's domain are nobody else's
			"shop.test":       "of adit tls",
			"a.home.test":     "of forest",
			"b.home.test":     "of forest",
			"else.test":       "of forest's rest",
		} {
			if got := visit(name); got != want {
				t.Errorf("%s: %s: got %q, want %q", when, name, got, want)
			}
		}
	}
	check("at first")

	// Whoever names nobody gets the server's first certificate, and not a tunnel.
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	if names := c.ConnectionState().PeerCertificates[0].DNSNames; names[0] != "tunnel.test" {
		t.Errorf("no name: got a certificate for %q, want tunnel.test", names)
	}
	c.Close()

	// The control name takes certificates of its authority alone.
	c, err = tls.Dial("tcp", addr, &tls.Config{ServerName: "forest.test", RootCAs: f.ca.Pool})
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("control without a certificate: got %v, want that one is required", err)
	}

	s.stop()
	s = serve()
	s.err.wait(t, "4 tunnels of before the restart are back")
	s.err.wait(t, "client home connected")
	agentsBack := time.Now().Add(20 * time.Second)
	for visit("app.tunnel.test") != "the site" || visit("shop.test") != "of adit tls" {
		if time.Now().After(agentsBack) {
			t.Fatal("the agents are not back")
		}
	}
	check("after a restart")
}

// What a shared port would give to strangers is refused at the start.
func TestForestConfigRefusals(t *testing.T) {
	t.Parallel()
	f := newForestSetup(t)
	f.ca.Write(t, f.file("own.crt"), f.file("own.key"), testca.Server("forest.tunnel.test"))
	f.ca.Write(t, f.file("nameless.crt"), f.file("nameless.key"), func(c *x509.Certificate) { c.IPAddresses = []net.IP{{127, 0, 0, 1}} })
	for _, tt := range []struct {
		name   string
		change map[string]any
		want   string
	}{
		{"no TLS", map[string]any{"UseTls": false}, "UseTls"},
		{"no domain", map[string]any{"Domain": ""}, "Domain is missing"},
		{"two ports", map[string]any{"TunnelControlPort": 1, "ManagementPort": 2}, "want ListenPort"},
		{"everybody manages", map[string]any{"ManagementCommonNames": nil}, "ManagementCommonNames is missing"},
		{"no port", map[string]any{"ListenPort": 0}, "ListenPort is missing"},
		{"a name of the server's", map[string]any{"ServerTlsCertificateFile": f.file("own.crt"), "ServerTlsKeyFile": f.file("own.key")}, `"forest.tunnel.test", which is a name of adit server itself`},
		{"no name", map[string]any{"ServerTlsCertificateFile": f.file("nameless.crt"), "ServerTlsKeyFile": f.file("nameless.key")}, "has no DNS name"},
		{"no certificate", map[string]any{"ServerTlsCertificateFile": f.file("none")}, "ServerTlsCertificateFile"},
		{"wrong type", map[string]any{"ListenPort": "x"}, "ListenPort"},
	} {
		code, _, errOut := call(t, nil, "server", "--listen", "none", "--tls-listen", "127.0.0.1:443", "--domain", "tunnel.test", "--forest-config", f.config(443, tt.change))
		if code == exitDone || !strings.Contains(errOut, tt.want) || !strings.Contains(errOut, "--forest-config") {
			t.Errorf("%s: got %d %s, want an error of --forest-config with %q", tt.name, code, errOut, tt.want)
		}
	}
	code, _, errOut := call(t, nil, "server", "--forest-config", f.config(443, nil))
	if code != exitUsage || !strings.Contains(errOut, "--tls-listen") {
		t.Errorf("without TLS: got %d %s, want a hint at --tls-listen", code, errOut)
	}
}
