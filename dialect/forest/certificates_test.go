package forest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/testca"
	"adit/internal/testlog"
)

type authority struct {
	t   testing.TB
	dir string
	own *tls.Certificate
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.own = a.make(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, "ca")
	return a
}

func (a *authority) make(c *x509.Certificate, file string) *tls.Certificate {
	a.t.Helper()
	made := testca.Sign(a.t, *c, a.own)
	cert, key := testca.PEM(a.t, made)
	for end, b := range map[string][]byte{".crt": cert, ".key": key} {
		if err := os.WriteFile(a.file(file+end), b, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return &made
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) client(cn, file string, usage ...x509.ExtKeyUsage) *x509.Certificate {
	if usage == nil {
		usage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	return a.make(&x509.Certificate{Subject: pkix.Name{CommonName: cn}, ExtKeyUsage: usage}, file).Leaf
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "ours"), newAuthority(t, "another")
	ca.make(&x509.Certificate{Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, "server")
	ca.client("home@example.com", "good")
	other.client("home@example.com", "foreign")
	ca.client("home@example.com", "usage", x509.ExtKeyUsageServerAuth)
	ca.client("home", "nodomain")
	ca.client("home@example.org", "domain")
	ca.client("office@example.com", "office")
	ca.make(&x509.Certificate{Subject: pkix.Name{CommonName: "home@example.com"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}, "expired")
	lost := ca.client("home@example.com", "lost")
	revokedFile := ca.file("revoked")
	if err := os.WriteFile(revokedFile, []byte("# stolen\n"+lost.SerialNumber.Text(16)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	logged := new(testlog.Log)
	addr := make(chan string, 1)
	s, err := NewServer(ServerConfig{UseTls: true, Domain: "example.com", CaCertificateFilesGlob: ca.file("ca.crt"),
		ServerTlsCertificateFile: ca.file("server.crt"), ServerTlsKeyFile: ca.file("server.key"), RevokedCertificatesFile: revokedFile},
		ServerOptions{Log: log.New(logged, "", 0), Listen: func(int) (net.Listener, error) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			addr <- ln.Addr().String()
			return ln, err
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	at := <-addr

	for _, tt := range []struct {
		name, logs, agent string
		from              *authority
	}{
		{"foreign", "signed by unknown authority", "unknown certificate authority", other},
		{"expired", "certificate has expired", "expired certificate", ca},
		{"usage", "incompatible key usage", "bad certificate", ca},
		{"lost", "is revoked", "bad certificate", ca},
		{"nodomain", `does not match TLS certificate CommonName home`, "502", ca},
		{"domain", `does not match TLS certificate CommonName home@example.org`, "502", ca},
		{"office", `does not match TLS certificate CommonName office@example.com`, "502", ca},
		{"good", "client home connected", "", ca},
	} {
		a, err := NewAgent(AgentConfig{ClientIdentifier: "home", ServerAddr: at, UseTls: true, CaCertificateFilesGlob: ca.file("ca.crt"),
			ClientTlsCertificateFile: tt.from.file(tt.name + ".crt"), ClientTlsKeyFile: tt.from.file(tt.name + ".key")}, AgentOptions{})
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		agentCtx, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			_, err := a.session(agentCtx)
			ended <- err
		}()
		logged.Await(t, tt.logs)
		if tt.agent != "" {
			if err := <-ended; err == nil || !strings.Contains(err.Error(), tt.agent) {
				t.Errorf("%s: the agent got %v, want an error with %q", tt.name, err, tt.agent)
			}
			stop()
			continue
		}
		// Revoked while it is connected.
		leaf, err := tls.LoadX509KeyPair(ca.file("good.crt"), ca.file("good.key"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(revokedFile, []byte(leaf.Leaf.SerialNumber.Text(16)), 0o600); err != nil {
			t.Fatal(err)
		}
		logged.Await(t, "client home from")
		<-ended
		stop()
	}
}
