package auth_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/auth"
	"adit/internal/testca"
)

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// sign makes a certificate; template says what it is.
func (a *authority) sign(t testing.TB, template x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	var by *tls.Certificate
	if a.cert != nil {
		by = &tls.Certificate{Leaf: a.cert, PrivateKey: a.key}
	}
	c := testca.Sign(t, template, by)
	return c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
}

// newAuthority makes one; by is who signs it, or none for itself.
func newAuthority(t testing.TB, by authority, notAfter time.Time) authority {
	t.Helper()
	c, key := by.sign(t, x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: notAfter,
	})
	return authority{c, key}
}

func writePEM(t testing.TB, certs ...*x509.Certificate) (path string) {
	t.Helper()
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return writeFile(t, "certs.pem", string(b))
}

func writeFile(t testing.TB, name, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func uris(t testing.TB, list ...string) (u []*url.URL) {
	t.Helper()
	for _, s := range list {
		v, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		u = append(u, v)
	}
	return u
}

// client is a template of a certificate for agents.
func client(cn string, more ...func(*x509.Certificate)) x509.Certificate {
	c := x509.Certificate{Subject: pkix.Name{CommonName: cn}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, f := range more {
		f(&c)
	}
	return c
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t, authority{}, time.Time{}), newAuthority(t, authority{}, time.Time{})
	between := newAuthority(t, ca, time.Time{})
	short := newAuthority(t, ca, time.Now().Add(10*time.Minute))
	over := newAuthority(t, ca, time.Now().Add(-time.Minute))
	leafCert, leafKey := ca.sign(t, client("agent"))
	allowed := func(c *x509.Certificate) {
		c.URIs = uris(t, "adit:id:web-*", "adit:hostname:*.example.com", "spiffe://x/y")
	}
	a := authenticator(t, auth.Options{Authorities: writePEM(t, ca.cert)})
	if a.Authorities() == nil || authenticator(t, auth.Options{}).Authorities() != nil {
		t.Error("Authorities is wrong")
	}
	for _, tt := range []struct {
		name     string
		by       authority
		template x509.Certificate
		chain    []*x509.Certificate // behind the leaf
		code     auth.Code
	}{
		{"good", ca, client("web", allowed), nil, ""},
		{"good, with the authority", ca, client("web", allowed), []*x509.Certificate{ca.cert}, ""},
		{"good, by one in between", between, client("web", allowed), []*x509.Certificate{between.cert}, ""},
		{"name in a DNS name", ca, client("", allowed, func(c *x509.Certificate) { c.DNSNames = []string{"web"} }), nil, ""},

		{"of another authority", stranger, client("web", allowed), nil, auth.InvalidCredential},
		{"of another authority that is sent along", stranger, client("web", allowed), []*x509.Certificate{stranger.cert}, auth.InvalidCredential},
		{"signed by itself", authority{}, client("web", allowed), nil, auth.InvalidCredential},
		{"without the one in between", between, client("web", allowed), nil, auth.InvalidCredential},
		{"expired", ca, client("web", allowed, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), nil, auth.ExpiredCredential},
		{"by one that has expired", over, client("web", allowed), []*x509.Certificate{over.cert}, auth.ExpiredCredential},
		{"not yet valid", ca, client("web", allowed, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		}), nil, auth.NotYetValid},
		{"for servers", ca, client("web", allowed, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil, auth.InvalidCredential},
		{"for mail", ca, client("web", allowed, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }), nil, auth.InvalidCredential},
		{"signed by one that is no authority", authority{leafCert, leafKey}, client("web", allowed), []*x509.Certificate{leafCert}, auth.InvalidCredential},
		{"without a name", ca, client("", allowed, func(c *x509.Certificate) { c.URIs = c.URIs[:2] }), nil, auth.InvalidCredential},
		{"that allows nothing", ca, client("web"), nil, auth.Forbidden},
		{"unknown grant", ca, client("web", func(c *x509.Certificate) { c.URIs = uris(t, "adit:id:web", "adit:except:web-1") }), nil, auth.InvalidCredential},
		{"malformed grant", ca, client("web", func(c *x509.Certificate) { c.URIs = uris(t, "adit:tcp-ports:9-1") }), nil, auth.InvalidCredential},
		{"malformed grant of UDP ports", ca, client("web", func(c *x509.Certificate) { c.URIs = uris(t, "adit:udp-ports:0") }), nil, auth.InvalidCredential},
		{"long chain", ca, client("web", allowed), []*x509.Certificate{ca.cert, ca.cert, ca.cert, ca.cert, ca.cert, ca.cert, ca.cert, ca.cert, ca.cert, ca.cert}, auth.InvalidCredential},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			leaf, _ := tt.by.sign(t, tt.template)
			certs := append([]*x509.Certificate{leaf}, tt.chain...)
			i := check(t, a, auth.Claim{Certs: certs}, tt.code)
			check(t, authenticator(t, auth.Options{Secrets: []auth.Secret{secret(t, rawOld)}}), auth.Claim{Certs: certs}, auth.MissingCredential)
			if i == nil {
				return
			}
			if i.Subject != "cert:web" || i.Kind != auth.KindCertificate || i.Token != auth.Fingerprint(leaf) || i.Expires.After(leaf.NotAfter) {
				t.Errorf("got %+v, want cert:web until %v", i, leaf.NotAfter)
			}
			if !i.Scope.AllowsID("web-1") || i.Scope.AllowsID("api") || !i.Scope.AllowsHostname("a.example.com") || i.Scope.AllowsPort(22) {
				t.Errorf("got scope %+v, want that of the URIs", i.Scope)
			}
			// A token that comes along decides, also if it is no good.
			check(t, a, auth.Claim{Certs: certs, Token: rawOther}, auth.InvalidCredential)
		})
	}
	leaf, _ := short.sign(t, client("web", allowed))
	if i := check(t, a, auth.Claim{Certs: []*x509.Certificate{leaf, short.cert}}, ""); !i.Expires.Equal(short.cert.NotAfter) {
		t.Errorf("got a session until %v, want it to end with the authority, %v", i.Expires, short.cert.NotAfter)
	}
}

func TestAuthoritiesRefused(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, authority{}, time.Time{})
	leaf, key := ca.sign(t, client("web"))
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(writePEM(t, ca.cert))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, want string }{
		{"no file", "/nonexistent/ca", "/nonexistent/ca"},
		{"empty", writeFile(t, "ca", ""), "want PEM"},
		{"not PEM", writeFile(t, "ca", "certificate"), "want PEM"},
		{"more behind it", writeFile(t, "ca", string(good)+"x"), "nothing else"},
		{"of an agent", writePEM(t, ca.cert, leaf), "certificate 2"},
		{"malformed", writeFile(t, "ca", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))), "certificate 1 is malformed"},
		{"with a key", writeFile(t, "ca", string(good)+string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))), "EC PRIVATE KEY"},
	} {
		if _, err := auth.NewAuthenticator(auth.Options{Authorities: tt.path}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
}

// TLS does not look at the certificates of a session that it resumes: they are
// looked at here each time.
func TestResumedTLSSession(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, authority{}, time.Time{})
	host, hostKey := ca.sign(t, x509.Certificate{DNSNames: []string{"server.test"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	leaf, leafKey := ca.sign(t, client("web", func(c *x509.Certificate) { c.URIs = uris(t, "adit:id:web") }))
	path := writePEM(t, ca.cert)
	store := auth.OpenStore(t.TempDir())
	a := authenticator(t, auth.Options{Authorities: path, Store: store})

	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{host.Raw}, PrivateKey: hostKey}},
		ClientAuth:   tls.RequestClientCert,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	agent := &tls.Config{
		RootCAs: roots, ServerName: "server.test", ClientSessionCache: tls.NewLRUClientSessionCache(1),
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: leafKey}},
	}
	dial := func() tls.ConnectionState {
		t.Helper()
		states := make(chan tls.ConnectionState, 1)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				close(states)
				return
			}
			defer c.Close()
			io.WriteString(c, "x") // sends the session ticket along
			states <- c.(*tls.Conn).ConnectionState()
			io.Copy(io.Discard, c)
		}()
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: agent}
		c, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return <-states
	}
	first := dial()
	i := check(t, a, auth.Claim{Certs: first.PeerCertificates}, "")
	if again, err := a.Recheck(i); err != nil || again.Subject != i.Subject {
		t.Errorf("Recheck: got %+v, %v, want the same", again, err)
	}
	if _, err := store.Revoke(auth.Revocation{ID: i.Token}); err != nil {
		t.Fatal(err)
	}
	if err := reload(a); err != nil {
		t.Fatal(err)
	}
	second := dial()
	if !second.DidResume || len(second.PeerCertificates) == 0 {
		t.Fatalf("resumed %v with %d certificates, want a resumed session", second.DidResume, len(second.PeerCertificates))
	}
	check(t, a, auth.Claim{Certs: second.PeerCertificates}, auth.RevokedCredential)
	if _, err := a.Recheck(i); !isCode(err, auth.RevokedCredential) {
		t.Errorf("Recheck: got %v, want code %s", err, auth.RevokedCredential)
	}

	// The authority is replaced.
	b := authenticator(t, auth.Options{Authorities: path})
	i = check(t, b, auth.Claim{Certs: second.PeerCertificates}, "")
	other, err := os.ReadFile(writePEM(t, newAuthority(t, authority{}, time.Time{}).cert))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, other, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := reload(b); err != nil {
		t.Fatal(err)
	}
	check(t, b, auth.Claim{Certs: dial().PeerCertificates}, auth.InvalidCredential)
	if _, err := b.Recheck(i); !isCode(err, auth.InvalidCredential) {
		t.Errorf("Recheck: got %v, want code %s", err, auth.InvalidCredential)
	}
}
