package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	devFile    = "dev-tls.pem"     // the authority's certificate, for whoever is to trust it
	devKeyFile = "dev-tls-key.pem" // its key
	devYears   = 2                 // that the authority lasts
	devLeaf    = 30 * 24 * time.Hour
	devRenew   = 24 * time.Hour // before its end a certificate is made anew
	devCached  = 1024           // certificates at a time
)

// A Dev makes certificates for whatever name it is asked for, signed by an
// authority of its own. It is for development: nobody trusts them who was not
// told to. Its methods are safe for concurrent use.
type Dev struct {
	path string // of the authority's certificate
	ca   *tls.Certificate
	key  *ecdsa.PrivateKey // of all certificates but the authority's
	own  []string          // names and addresses of the server itself

	mu     sync.Mutex                  // guards cached
	cached map[string]*tls.Certificate // by name; "" is the server itself
}

// OpenDev loads the authority that is in dir, or makes one there. own are the
// names and addresses of the server, which it shows to visitors who name
// nobody.
func OpenDev(dir string, own []string) (*Dev, error) {
	d := &Dev{path: filepath.Join(dir, devFile), own: own, cached: make(map[string]*tls.Certificate)}
	ca, err := loadAuthority(d.path, filepath.Join(dir, devKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		ca, err = makeAuthority(d.path, filepath.Join(dir, devKeyFile))
	}
	if err != nil {
		return nil, fmt.Errorf("certs: authority for development in %s: %w", dir, err)
	}
	d.ca = ca
	if d.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	return d, nil
}

// AuthorityFile is the file with the certificate that visitors and agents have
// to be told to trust.
func (d *Dev) AuthorityFile() string { return d.path }

// Certificate is for tls.Config's GetCertificate.
func (d *Dev) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.TrimSuffix(strings.ToLower(hello.ServerName), ".")
	for _, n := range d.own {
		if n == name {
			name = ""
		}
	}
	if !d.Has(name) {
		return nil, ErrNone
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.cached[name]; c != nil && time.Until(c.Leaf.NotAfter) > devRenew {
		return c, nil
	}
	names := []string{name}
	if name == "" {
		names = d.own
	}
	c, err := d.issue(names)
	if err != nil {
		return nil, err
	}
	if len(d.cached) >= devCached {
		clear(d.cached)
	}
	d.cached[name] = c
	return c, nil
}

// Has reports whether name, in lower case or empty, can have a certificate.
func (d *Dev) Has(name string) bool {
	if name == "" {
		return len(d.own) > 0
	}
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// Covers reports whether the certificate that visitors get who ask for name is
// good for host too. Each name has one of its own.
func (d *Dev) Covers(name, host string) bool {
	if name == host {
		return true
	}
	ownName, ownHost := name == "", false
	for _, n := range d.own {
		ownName = ownName || n == name
		ownHost = ownHost || n == host
	}
	return ownName && ownHost
}

func (d *Dev) issue(names []string) (*tls.Certificate, error) {
	t, err := template(devLeaf)
	if err != nil {
		return nil, err
	}
	t.Subject = pkix.Name{CommonName: "adit development server"}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, d.ca.Leaf, &d.key.PublicKey, d.ca.PrivateKey)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: d.key, Leaf: leaf}, nil
}

func template(lasts time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-time.Hour), // clocks differ
		NotAfter:              now.Add(lasts),
		BasicConstraintsValid: true,
	}, nil
}

func loadAuthority(certFile, keyFile string) (*tls.Certificate, error) {
	ca, err := tls.LoadX509KeyPair(certFile, keyFile)
	switch {
	case err != nil:
		return nil, err
	case !ca.Leaf.IsCA:
		return nil, fmt.Errorf("%s is no authority's certificate: remove it and %s", certFile, keyFile)
	case time.Until(ca.Leaf.NotAfter) < devLeaf:
		return nil, fmt.Errorf("%s ends %s: remove it and %s for a new one", certFile, ca.Leaf.NotAfter.Format(time.DateOnly), keyFile)
	}
	if info, err := os.Stat(keyFile); err != nil {
		return nil, err
	} else if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %#o, which lets others read it: remove it and %s, and trust the new one", keyFile, perm, certFile)
	}
	return &ca, nil
}

// makeAuthority makes an authority, whose key nobody else can read.
func makeAuthority(certFile, keyFile string) (*tls.Certificate, error) {
	if err := os.MkdirAll(filepath.Dir(certFile), 0o700); err != nil {
		return nil, err
	}
	for _, file := range []string{keyFile, certFile} { // one may have been left behind without the other
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t, err := template(devYears * 365 * 24 * time.Hour)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	t.Subject = pkix.Name{CommonName: "adit development authority " + host}
	t.IsCA, t.MaxPathLenZero = true, true
	t.KeyUsage = x509.KeyUsageCertSign
	if _, err := certify(t, t, key, key, certFile, keyFile); err != nil {
		return nil, err
	}
	return loadAuthority(certFile, keyFile)
}
