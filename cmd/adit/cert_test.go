package main

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCert makes what mutual TLS needs, one command for each.
func TestCert(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := func(args ...string) (int, string) {
		var out, errOut output
		p := &program{in: strings.NewReader(""), out: &out, errOut: &errOut}
		return p.run(t.Context(), append([]string{"cert"}, append(args, "--dir", dir)...)), out.String() + errOut.String()
	}
	for _, args := range [][]string{{"ca"}, {"server", "localhost", "127.0.0.1"}, {"client", "home@example.com"}} {
		if code, text := run(args...); code != exitDone {
			t.Fatalf("%q: got %d and %s, want %d", args, code, text, exitDone)
		}
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	for name, usage := range map[string]x509.ExtKeyUsage{"server": x509.ExtKeyUsageServerAuth, "home": x509.ExtKeyUsageClientAuth} {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(filepath.Join(dir, name+".key")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %v, %v, want 0600", name, info.Mode(), err)
		}
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"there already", []string{"client", "home@example.com"}, exitFailed, "is not overwritten"},
		{"no domain", []string{"client", "home"}, exitUsage, "home@tunnel.example.com"},
		{"a path", []string{"client", "../x@example.com"}, exitUsage, "an identifier"},
		{"no days", []string{"server", "a", "--days", "0"}, exitUsage, "1 to 36500"},
		{"no authority", []string{"server", "a", "--name", "b", "--ca", "/nowhere/ca"}, exitFailed, "authority"},
	} {
		if code, text := run(tt.args...); code != tt.code || !strings.Contains(text, tt.want) {
			t.Errorf("%s: got %d %q, want %d and %q", tt.name, code, text, tt.code, tt.want)
		}
	}
}
