// Package testca makes certificate authorities for tests, and certificates that
// they sign.
//
//	ca := testca.New(t)
//	cert, key := ca.Files(t, testca.Server("example.com", "*.example.com"))
//	config := &tls.Config{RootCAs: ca.Pool}
package testca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An Authority signs certificates, which are good for an hour.
type Authority struct {
	Cert *x509.Certificate
	Pool *x509.CertPool // of itself
	PEM  []byte         // itself

	own *tls.Certificate
}

// New returns an authority.
func New(t testing.TB) *Authority {
	t.Helper()
	own := Sign(t, x509.Certificate{
		Subject: pkix.Name{CommonName: "an authority of our own"},
		IsCA:    true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	cert, _ := PEM(t, own)
	a := &Authority{Cert: own.Leaf, Pool: x509.NewCertPool(), PEM: cert, own: &own}
	a.Pool.AddCert(a.Cert)
	return a
}

// Sign returns a certificate that is what template says, signed by another one,
// or by itself if that is nil. It is good from an hour ago until an hour from now
// if template does not say otherwise.
func Sign(t testing.TB, template x509.Certificate, by *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		t.Fatal(err)
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	if by == nil {
		by = &tls.Certificate{Leaf: &template, PrivateKey: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, by.Leaf, &key.PublicKey, by.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// PEM returns a certificate and its key as files have them.
func PEM(t testing.TB, c tls.Certificate) (cert, key []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Server is for Issue: a certificate for a server of these hostnames, and of
// loopback.
func Server(hostnames ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject.CommonName = hostnames[0]
		c.DNSNames = hostnames
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
}

// Client is for Issue: a certificate for whoever dials.
func Client(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject.CommonName = name
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
}

// Issue returns a certificate that change says more about.
func (a *Authority) Issue(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	c := x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature}
	change(&c)
	return Sign(t, c, a.own)
}

// Files writes what Issue returns into files of their own.
func (a *Authority) Files(t testing.TB, change func(*x509.Certificate)) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	a.Write(t, cert, key, change)
	return cert, key
}

// Write is Files with names of the caller's. What is there is replaced.
func (a *Authority) Write(t testing.TB, cert, key string, change func(*x509.Certificate)) {
	t.Helper()
	c, k := PEM(t, a.Issue(t, change))
	put(t, cert, c)
	put(t, key, k)
}

// File writes the authority's own certificate.
func (a *Authority) File(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	put(t, path, a.PEM)
	return path
}

func put(t testing.TB, path string, b []byte) {
	t.Helper()
	err := os.WriteFile(path+".new", b, 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}
