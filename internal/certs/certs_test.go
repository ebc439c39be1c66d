package certs_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/certs"
	"adit/internal/memnet"
	"adit/internal/testlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// A maker writes certificates into a folder.
type maker struct {
	t      *testing.T
	dir    string
	serial int64
}

// write writes a certificate for names, and its key, and returns it. They sign
// themselves.
func (m *maker) write(file string, useRSA bool, change func(*x509.Certificate), names ...string) (p certs.Pair, leaf []byte) {
	m.t.Helper()
	m.serial++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(m.serial),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(90 * 24 * time.Hour),
		DNSNames:     names,
	}
	if change != nil {
		change(c)
	}
	var key any
	var public any
	if useRSA {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			m.t.Fatal(err)
		}
		key, public = k, &k.PublicKey
	} else {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			m.t.Fatal(err)
		}
		key, public = k, &k.PublicKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, key)
	if err != nil {
		m.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		m.t.Fatal(err)
	}
	p = certs.Pair{Cert: filepath.Join(m.dir, file+".pem"), Key: filepath.Join(m.dir, file+".key")}
	m.put(p.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	m.put(p.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	return p, der
}

// put replaces a file.
func (m *maker) put(path string, b []byte) {
	m.t.Helper()
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		m.t.Fatal(err)
	}
}

// shown returns the certificate that a visitor who asks for name gets, and its
// handshake's error.
func shown(t *testing.T, get func(*tls.ClientHelloInfo) (*tls.Certificate, error), name string, suites ...uint16) ([]byte, error) {
	t.Helper()
	near, far := memnet.Pipe()
	defer near.Close()
	var wg sync.WaitGroup
	var serr error
	wg.Go(func() {
		defer far.Close()
		serr = tls.Server(far, &tls.Config{GetCertificate: get}).HandshakeContext(t.Context())
	})
	config := &tls.Config{ServerName: name, InsecureSkipVerify: true, CipherSuites: suites}
	if suites != nil {
		config.MaxVersion = tls.VersionTLS12
	}
	c := tls.Client(near, config)
	err := c.HandshakeContext(t.Context())
	near.Close()
	wg.Wait()
	if err != nil {
		return nil, errors.Join(err, serr)
	}
	return c.ConnectionState().PeerCertificates[0].Raw, nil
}

func TestFilesByName(t *testing.T) {
	t.Parallel()
	m := &maker{t: t, dir: t.TempDir()}
	wild, wildDER := m.write("wild", false, nil, "example.com", "*.example.com")
	exact, exactDER := m.write("exact", false, nil, "Exact.example.com")
	wildRSA, wildRSADER := m.write("rsa", true, nil, "example.com", "*.example.com")
	f, err := certs.Open([]certs.Pair{wild, exact, wildRSA}, certs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{
		"example.com": wildDER, "a.example.com": wildDER, "A.Example.COM": wildDER, "exact.example.com": exactDER, "": wildDER,
		"a.b.example.com": nil, "example.org": nil, "com": nil,
	} {
		got, err := shown(t, f.Certificate, name)
		if !bytes.Equal(got, want) || (want == nil) != (err != nil) {
			t.Errorf("%q: got another certificate than wanted, %v", name, err)
		}
		if has := f.Has(strings.ToLower(name)); name != "" && has != (want != nil) {
			t.Errorf("%q: Has: got %v", name, has)
		}
	}
	for _, name := range []string{"a.example.com", ""} {
		if got, err := shown(t, f.Certificate, name, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256); !bytes.Equal(got, wildRSADER) {
			t.Errorf("%q without ECDSA: got another certificate, %v", name, err)
		}
	}
	for _, tc := range []struct {
		name, host string
		want       bool
	}{
		{"a.example.com", "b.example.com", true},
		{"a.example.com", "example.com", true},
		{"a.example.com", "exact.example.com", true}, // the certificate says so
		{"exact.example.com", "a.example.com", false},
		{"a.example.com", "example.org", false},
		{"a.example.com", "a.b.example.com", false},
		{"", "a.example.com", true},
		{"", "example.org", false},
		{"example.org", "example.org", false}, // there is none
	} {
		if got := f.Covers(tc.name, tc.host); got != tc.want {
			t.Errorf("Covers(%q, %q): got %v", tc.name, tc.host, got)
		}
	}
	if !f.HasWildcard("example.com") || f.HasWildcard("exact.example.com") {
		t.Error("HasWildcard: want it for example.com alone")
	}
}

func TestKeyInTheSameFile(t *testing.T) {
	t.Parallel()
	m := &maker{t: t, dir: t.TempDir()}
	p, der := m.write("both", false, nil, "example.com")
	c, _ := os.ReadFile(p.Cert)
	k, _ := os.ReadFile(p.Key)
	m.put(p.Cert, append(c, k...))
	f, err := certs.Open([]certs.Pair{{Cert: p.Cert}}, certs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := shown(t, f.Certificate, "example.com"); !bytes.Equal(got, der) {
		t.Errorf("got another certificate, %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	m := &maker{t: t, dir: t.TempDir()}
	good, _ := m.write("good", false, nil, "example.com")
	other, _ := m.write("other", false, nil, "example.com")
	nameless, _ := m.write("nameless", false, nil)
	m.put(filepath.Join(m.dir, "text"), []byte("no PEM"))
	m.put(filepath.Join(m.dir, "large"), make([]byte, 2<<20))
	for name, tc := range map[string]struct {
		pair certs.Pair
		want string // in the error
	}{
		"no certificate":      {certs.Pair{Cert: filepath.Join(m.dir, "none.pem"), Key: good.Key}, "none.pem: no such file"},
		"no key":              {certs.Pair{Cert: good.Cert, Key: filepath.Join(m.dir, "none.key")}, "none.key: no such file"},
		"another one's key":   {certs.Pair{Cert: good.Cert, Key: other.Key}, "does not match"},
		"no PEM":              {certs.Pair{Cert: filepath.Join(m.dir, "text"), Key: good.Key}, "text"},
		"key file forgotten":  {certs.Pair{Cert: good.Cert}, "good.pem"},
		"a folder":            {certs.Pair{Cert: m.dir, Key: good.Key}, "no regular file"},
		"too large":           {certs.Pair{Cert: filepath.Join(m.dir, "large"), Key: good.Key}, "has more than"},
		"no name":             {nameless, "for no name"},
		"the two in disorder": {certs.Pair{Cert: good.Key, Key: good.Cert}, "good.key"},
	} {
		if _, err := certs.Open([]certs.Pair{good, tc.pair}, certs.Options{}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tc.want)
		}
	}
	if _, err := certs.Open(nil, certs.Options{}); err == nil {
		t.Error("no files: got no error")
	}
}

// eventually waits until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	limit := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// Files are read again when they change, and what cannot be used changes
// nothing.
func TestFilesChange(t *testing.T) {
	t.Parallel()
	m := &maker{t: t, dir: t.TempDir()}
	p, first := m.write("a", false, nil, "example.com")
	other, _ := m.write("b", false, nil, "example.org")
	l := &testlog.Log{}
	f, err := certs.Open([]certs.Pair{p, other}, certs.Options{Poll: 5 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(l, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { f.Watch(ctx) })
	defer wg.Wait()
	defer cancel()
	is := func(der []byte) func() bool {
		return func() bool {
			got, _ := shown(t, f.Certificate, "example.com")
			return bytes.Equal(got, der)
		}
	}
	if !is(first)() {
		t.Fatal("the first certificate is not shown")
	}
	_, second := m.write("a", false, nil, "example.com")
	eventually(t, "the second certificate is shown", is(second))

	key, _ := os.ReadFile(p.Key)
	m.put(p.Key, []byte("broken"))
	eventually(t, "it is logged", func() bool { return l.Count("level=ERROR") == 1 })
	if !is(second)() {
		t.Error("with a broken key the old certificate is not shown")
	}
	if _, err := f.Prepare(); err == nil || !strings.Contains(err.Error(), "a.key") {
		t.Errorf("Prepare: got %v, want an error about a.key", err)
	}
	if n := l.Count("level=ERROR"); n != 1 {
		t.Errorf("a broken key was logged %d times, want once: it has not changed", n)
	}
	os.Remove(p.Key)
	eventually(t, "it is logged again", func() bool { return l.Count("no such file") == 1 })
	m.put(p.Key, key)
	_, third := m.write("a", false, nil, "example.com", "www.example.com")
	apply, err := f.Prepare()
	if err != nil {
		t.Fatalf("Prepare of mended files: %v", err)
	}
	apply()
	if !is(third)() || !f.Has("www.example.com") {
		t.Error("after Prepare the third certificate is not shown")
	}
	if strings.Contains(l.String(), "PRIVATE") {
		t.Error("a key was logged")
	}
}

func TestExpiryIsLogged(t *testing.T) {
	t.Parallel()
	m := &maker{t: t, dir: t.TempDir()}
	ends := func(in time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotAfter = time.Now().Add(in) }
	}
	over, _ := m.write("over", false, ends(-time.Minute), "a")
	soon, _ := m.write("soon", false, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-80*24*time.Hour), time.Now().Add(24*time.Hour)
	}, "b")
	short, _ := m.write("short", false, ends(6*24*time.Hour), "c") // that long is all it has
	l := &testlog.Log{}
	f, err := certs.Open([]certs.Pair{over, soon, short}, certs.Options{Logger: slog.New(slog.NewTextHandler(l, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if l.Count("has expired") != 1 || l.Count("expires soon") != 1 {
		t.Errorf("got the log %s, want one line for each of two", l)
	}
	if !f.Has("a") {
		t.Error("an expired certificate is not shown: whoever looks at it knows more than from none")
	}
}
