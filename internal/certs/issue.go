package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"
)

// A Leaf is what an authority certifies.
type Leaf struct {
	CommonName string
	Hosts      []string // names and addresses of a server; none for a client
	Server     bool     // it is for a server; otherwise for a client
	Lasts      time.Duration
}

// MakeAuthority makes an authority with a name, and writes its certificate and
// its key to files that are not there yet. Nobody else can read the key. It
// certifies no other authorities.
func MakeAuthority(name, certFile, keyFile string, lasts time.Duration) (*x509.Certificate, error) {
	t, err := template(lasts)
	if err != nil {
		return nil, err
	}
	t.Subject = pkix.Name{CommonName: name}
	t.IsCA, t.MaxPathLenZero = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return certify(t, t, key, key, certFile, keyFile)
}

// Issue makes a certificate of the authority in two files, and writes it and its
// key to files that are not there yet. It does not outlast the authority.
func Issue(caFile, caKeyFile string, l Leaf, certFile, keyFile string) (*x509.Certificate, error) {
	ca, err := tls.LoadX509KeyPair(caFile, caKeyFile)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	if !ca.Leaf.IsCA {
		return nil, fmt.Errorf("%s is no authority's certificate", caFile)
	}
	if time.Now().After(ca.Leaf.NotAfter) {
		return nil, fmt.Errorf("the authority in %s ended %s", caFile, ca.Leaf.NotAfter.Format(time.DateOnly))
	}
	t, err := template(l.Lasts)
	if err != nil {
		return nil, err
	}
	if t.NotAfter.After(ca.Leaf.NotAfter) {
		t.NotAfter = ca.Leaf.NotAfter
	}
	t.Subject = pkix.Name{CommonName: l.CommonName}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if l.Server {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, h := range l.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return certify(t, ca.Leaf, key, ca.PrivateKey, certFile, keyFile)
}

// certify has signer sign t for key, and writes both into files that are not
// there.
func certify(t, parent *x509.Certificate, key *ecdsa.PrivateKey, signer crypto.PrivateKey, certFile, keyFile string) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	// The key first: a certificate without one would have to be removed by hand.
	if err := writeFresh(keyFile, "PRIVATE KEY", keyDER, 0o600); err != nil {
		return nil, err
	}
	if err := writeFresh(certFile, "CERTIFICATE", der, 0o644); err != nil {
		os.Remove(keyFile) // made above, and of no use alone
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// writeFresh writes a file that is not there.
func writeFresh(name, kind string, der []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already, and is not overwritten", name)
	}
	if err != nil {
		return err
	}
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}) // into memory
	_, err = f.Write(b.Bytes())
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		os.Remove(name)
	}
	return err
}
