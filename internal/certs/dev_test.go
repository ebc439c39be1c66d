package certs_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"adit/internal/certs"
	"adit/internal/memnet"
)

// verify returns what a visitor thinks who trusts the authority in file.
func verify(t *testing.T, d *certs.Dev, file, name, host string) error {
	t.Helper()
	ca, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	near, far := memnet.Pipe()
	defer far.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer near.Close()
	wg.Go(func() { tls.Server(far, &tls.Config{GetCertificate: d.Certificate}).HandshakeContext(t.Context()) })
	c := tls.Client(near, &tls.Config{ServerName: name, InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
		return err
	}})
	return c.HandshakeContext(t.Context())
}

func TestDev(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	own := []string{"localhost", "example.com", "127.0.0.1"}
	d, err := certs.OpenDev(dir, own)
	if err != nil {
		t.Fatal(err)
	}
	for name, host := range map[string]string{
		"": "127.0.0.1", "localhost": "localhost", "example.com": "example.com",
		"web.localhost": "web.localhost", "www.example.org": "www.example.org",
	} {
		if err := verify(t, d, d.AuthorityFile(), name, host); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := verify(t, d, d.AuthorityFile(), "a.example.com", "b.example.com"); err == nil {
		t.Error("a certificate is good for another name too")
	}
	if info, err := os.Stat(filepath.Join(dir, "dev-tls-key.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the authority's key: %v, %v, want mode 0600", info.Mode(), err)
	}

	again, err := certs.OpenDev(dir, own)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(t, again, d.AuthorityFile(), "web.localhost", "web.localhost"); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	other, err := certs.OpenDev(t.TempDir(), own)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(t, other, d.AuthorityFile(), "web.localhost", "web.localhost"); err == nil {
		t.Error("another server's certificate is trusted")
	}

	for _, tc := range []struct {
		name, host string
		want       bool
	}{
		{"a.localhost", "a.localhost", true}, {"a.localhost", "b.localhost", false},
		{"localhost", "example.com", true}, {"", "localhost", true}, {"", "a.localhost", false}, {"a.localhost", "localhost", false},
	} {
		if got := d.Covers(tc.name, tc.host); got != tc.want {
			t.Errorf("Covers(%q, %q): got %v", tc.name, tc.host, got)
		}
	}
	for _, bad := range []string{"a b", "a/b", strings.Repeat("a", 64), "..", "ä.example"} {
		if c, err := d.Certificate(&tls.ClientHelloInfo{ServerName: bad}); err == nil {
			t.Errorf("%q: got a certificate for %q", bad, c.Leaf.DNSNames)
		}
	}
}

// However many names are asked for, few certificates are kept.
func TestDevIsBounded(t *testing.T) {
	t.Parallel()
	d, err := certs.OpenDev(t.TempDir(), []string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	get := func(name string) []byte {
		c, err := d.Certificate(&tls.ClientHelloInfo{ServerName: name})
		if err != nil {
			t.Fatal(err)
		}
		return c.Certificate[0]
	}
	first := get("a.localhost")
	if !bytes.Equal(first, get("A.localhost")) {
		t.Error("the second visitor gets another certificate than the first")
	}
	for i := range 1100 {
		get(fmt.Sprintf("n%d.localhost", i))
	}
	if bytes.Equal(first, get("a.localhost")) {
		t.Error("a certificate is kept forever")
	}
}

func TestDevRefusesFilesOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := certs.OpenDev(dir, nil); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "dev-tls-key.pem")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.OpenDev(dir, nil); err == nil || !strings.Contains(err.Error(), "0644") {
		t.Errorf("key that others can read: got %v", err)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.OpenDev(dir, nil); err != nil {
		t.Errorf("key that is missing: got %v, want a new authority", err)
	}
}
