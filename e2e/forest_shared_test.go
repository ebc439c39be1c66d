package e2e

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// One port of adit server has HTTPS that it ends itself, and a tunnel of
// forest/tunnel to an upstream that alone has its key.
func TestForestAtThePortOfAditServer(t *testing.T) {
	t.Parallel()
	f := newForest(t)
	port, control := freePort(t), freePort(t)
	run(t, 30*time.Second, binary, "cert", "server", "tunnel.test", "*.tunnel.test", "--name", "front", "--dir", f.dir)
	f.write("shared.json", `{"UseTls":true,"ListenPort":`+control+`,"Domain":"example.com","CaCertificateFilesGlob":"ca.crt",
		"ServerTlsCertificateFile":"server.crt","ServerTlsKeyFile":"server.key","ManagementCommonNames":["automation@example.com"]}`)
	c := aditCommand([]string{binary, "server", "--listen", "none", "--tls-listen", "127.0.0.1:" + port, "--tls-cert", "front.crt", "--tls-key", "front.key",
		"--domain", "tunnel.test", "--data-dir", f.file("data"), "--forest-config", "shared.json", "--hold", "0s"})
	c.Dir = f.dir
	s := start(t, "server with forest", c)
	s.waitLog(t, "its start", 20*time.Second, func(log string) bool { return strings.Contains(log, "server started") })
	config := f.read("home.json")
	f.write("other.json", strings.ReplaceAll(config, "127.0.0.1:"+f.control, "127.0.0.1:"+control))
	f.run("client", "other")
	s.waitLog(t, "the client", 20*time.Second, func(log string) bool { return strings.Contains(log, "client home connected") })

	f.front, f.control = port, control
	if got := f.put("automation", "home"); !strings.HasSuffix(got, " 200") {
		t.Fatalf("PUT: got %q, want 200", got)
	}
	if err := f.get(t.Context()); err != nil {
		t.Error(err)
	}
	get := func(ctx context.Context, name string) (string, error) {
		out, err := exec.CommandContext(ctx, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10", "--cacert", f.file("ca.crt"),
			"--connect-to", name+":443:127.0.0.1:"+port, "https://"+name+"/_adit/healthz").CombinedOutput()
		return string(out), err
	}
	if out, err := get(t.Context(), "tunnel.test"); err != nil || out != "200" {
		t.Errorf("the server's own name: got %s, %v, want 200", out, err)
	}
	if out, err := get(t.Context(), "other.test"); err == nil || !strings.Contains(out, "unrecognized name") {
		t.Errorf("an unknown name: got %s, %v, want the alert for that", out, err)
	}
	if got := f.put("home", "home"); !strings.HasSuffix(got, " 403") {
		t.Errorf("PUT by a client: got %q, want 403", got)
	}
}
