package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/testtcp"
)

// An authority is one that openssl made.
type authority struct{ dir, cert, key string }

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	dir := t.TempDir()
	a := authority{dir, filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")}
	run(t, 30*time.Second, need(t, "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-keyout", a.key, "-out", a.cert, "-days", "30", "-subj", "/CN="+name)
	return a
}

// issue makes a certificate and its key, in one file, with extensions.
func (a authority) issue(t *testing.T, path, subject, days, extensions string) {
	t.Helper()
	openssl := need(t, "openssl")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("ext"), []byte(extensions), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, 30*time.Second, openssl, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", at("key"), "-out", at("csr"), "-subj", subject)
	run(t, 30*time.Second, openssl, "x509", "-req", "-in", at("csr"), "-CA", a.cert, "-CAkey", a.key, "-CAcreateserial", "-days", days, "-extfile", at("ext"), "-out", at("cert"))
	var both []byte
	for _, name := range []string{"cert", "key"} {
		b, err := os.ReadFile(at(name))
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, b...)
	}
	if err := os.WriteFile(path+".new", both, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

const (
	forAgents  = "extendedKeyUsage=clientAuth\nsubjectAltName=URI:adit:id:web,URI:adit:tcp-ports:1-65535\n"
	forServers = "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:" + domain + ",DNS:*." + domain + ",IP:127.0.0.1\n"
)

// TestAgentCertificates lets agents in with certificates of openssl alone, and
// turns away those that are no good.
func TestAgentCertificates(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "agents"), newAuthority(t, "others")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca.issue(t, at("server.pem"), "/CN=server", "30", forServers)
	port, public := freePort(t), freePort(t)
	s := startServer(t, "--tls-listen", "127.0.0.1:"+port, "--tls-cert", at("server.pem"), "--agent-ca-file", ca.cert, "--tcp-ports", public, "--log-level", "debug")
	waitAccepts(t, s.process, "127.0.0.1:"+port)
	up := echoUpstream(t)
	agent := func(name, cert string) *process {
		t.Helper()
		args := []string{binary, "tcp", up, "--id", "web", "--server", "wss://127.0.0.1:" + port, "--ca-file", ca.cert, "--instance", fmt.Sprint(len(name))}
		if cert != "" {
			args = append(args, "--cert", cert)
		} else {
			args = append(args, "--token-command", "echo nobody")
		}
		return start(t, "agent "+name, aditCommand(args))
	}
	logged := func(p *process, what string) {
		t.Helper()
		p.waitLog(t, what, 20*time.Second, func(log string) bool { return strings.Contains(log, what) })
	}

	for _, tt := range []struct {
		name, days, extensions string
		by                     authority
		want                   string
	}{
		{"of another authority", "30", forAgents, other, "authority that is not known"},
		{"expired", "-1", forAgents, ca, "has expired"},
		{"for servers", "30", strings.Replace(forAgents, "clientAuth", "serverAuth", 1), ca, "not for use by clients"},
		{"for nothing", "30", "extendedKeyUsage=clientAuth\n", ca, "allows nothing"},
		{"for another id", "30", strings.Replace(forAgents, "id:web", "id:api", 1), ca, "does not allow the id"},
	} {
		path := at(strings.ReplaceAll(tt.name, " ", "-") + ".pem")
		tt.by.issue(t, path, "/CN=shop", tt.days, tt.extensions)
		a := agent(tt.name, path)
		logged(a, tt.want)
		a.kill()
	}
	none := agent("none", "")
	logged(none, "not valid here")
	none.kill()
	if log, _ := s.log.read(); strings.Contains(log, "agent connected") {
		t.Fatal("one of them got in")
	}

	// A good one gets in, and another one takes its place while a stream goes on.
	path := at("good.pem")
	ca.issue(t, path, "/CN=shop", "10", forAgents)
	good := agent("good", path)
	logged(good, "  ->  ")
	c, err := net.Dial("tcp", "127.0.0.1:"+public)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echoes(t, c, "before")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ca.issue(t, path, "/CN=shop", "20", forAgents)
	logged(s.process, "session resumed")
	echoes(t, c, "after")
	adit := func(args ...string) string {
		t.Helper()
		return run(t, 30*time.Second, binary, append(args, "--data-dir", filepath.Join(s.dir, "data"))...)
	}
	// So the old one may be withdrawn, and the new one.
	if err := os.WriteFile(at("old.pem"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	adit("token", "revoke", "--file", at("old.pem"))
	eventually(t, "the server knows", 20*time.Second, func(context.Context) error {
		if log, _ := s.log.read(); !strings.Contains(log, "credentials reloaded") {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	echoes(t, c, "still there")
	adit("token", "revoke", "--file", path)
	logged(good, "the credential was revoked")
	if shown := adit("token", "inspect", path); !strings.Contains(shown, "cert:shop") || !strings.Contains(shown, "web") {
		t.Errorf("inspect printed %q, want the subject and the ID", shown)
	}
}

// echoUpstream is a TCP upstream that sends back what it gets.
func echoUpstream(t *testing.T) string { return testtcp.Serve(t, testtcp.Echo) }

// echoes sends text through c and back.
func echoes(t *testing.T, c net.Conn, text string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprint(c, text); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	for n := 0; n < len(b); {
		m, err := c.Read(b[n:])
		if n += m; err != nil {
			t.Fatalf("echo of %q: %q, %v", text, b[:n], err)
		}
	}
}
