package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

const (
	maxCAFile       = 1 << 20 // bytes
	maxChain        = 10      // certificates that an agent sends
	certificateName = "cert:" // begins the subjects of certificates
	grantURI        = "adit"  // scheme of URIs that say what a certificate allows
)

// Fingerprint returns the SHA-256 of a certificate in hexadecimal, by which it
// can be revoked.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// loadAuthorities reads the certificates of those who may sign agents'.
func loadAuthorities(path string) (*x509.CertPool, error) {
	pool, err := parseAuthorities(path)
	if err != nil {
		return nil, fmt.Errorf("agents' authorities %s: %w", path, err)
	}
	return pool, nil
}

func parseAuthorities(path string) (*x509.CertPool, error) {
	rest, err := readFile(path, maxCAFile, checkUnwritable)
	if err != nil {
		return nil, err
	}
	pool, n := x509.NewCertPool(), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("has a block of type %q: want certificates alone", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		switch n++; {
		case err != nil:
			return nil, fmt.Errorf("certificate %d is malformed", n)
		case !c.BasicConstraintsValid || !c.IsCA:
			return nil, fmt.Errorf("certificate %d (%s) is not that of an authority", n, c.Subject)
		}
		pool.AddCert(c)
	}
	if n == 0 || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("want PEM, which begins with -----BEGIN CERTIFICATE-----, and nothing else")
	}
	return pool, nil
}

// verifyCertificate reports whether a chain is good for an agent now: signed
// by one of the authorities, for use by clients, and within its time. TLS may
// have looked at it before, or have taken it from a session that it resumes.
func verifyCertificate(authorities *x509.CertPool, certs []*x509.Certificate) (expires time.Time, err error) {
	if len(certs) > maxChain {
		return expires, &Error{InvalidCredential, fmt.Sprintf("%d certificates were sent: at most %d are allowed", len(certs), maxChain)}
	}
	leaf, between := certs[0], x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots:         authorities,
		Intermediates: between,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return expires, certificateRefusal(leaf, err)
	}
	for _, chain := range chains {
		end := chain[0].NotAfter
		for _, c := range chain {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		if end.After(expires) {
			expires = end
		}
	}
	return expires, nil
}

func certificateRefusal(leaf *x509.Certificate, err error) *Error {
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case unknown:
		return &Error{InvalidCredential, "the certificate is signed by an authority that is not known here"}
	case isInvalid && invalid.Reason == x509.Expired && time.Now().Before(leaf.NotBefore):
		return &Error{NotYetValid, "the certificate is not valid yet by the server's clock"}
	case isInvalid && invalid.Reason == x509.Expired:
		return &Error{ExpiredCredential, "the certificate, or one that it is signed with, has expired"}
	case isInvalid && invalid.Reason == x509.IncompatibleUsage:
		return &Error{InvalidCredential, "the certificate is not for use by clients (extended key usage)"}
	}
	return &Error{InvalidCredential, "the certificate is not valid here"}
}

// certificateFacts are what a certificate says of its holder.
func certificateFacts(c *x509.Certificate) facts {
	f := facts{certificate: true, values: make(map[string][]string)}
	add := func(field, v string) {
		if v != "" && isPrintable(v) {
			f.values[field] = append(f.values[field], v)
		}
	}
	add("cn", c.Subject.CommonName)
	for _, v := range c.Subject.OrganizationalUnit {
		add("ou", v)
	}
	for _, v := range c.DNSNames {
		add("dns", strings.ToLower(v))
	}
	for _, v := range c.URIs {
		if v.Scheme != grantURI {
			add("uri", v.String())
		}
	}
	for _, v := range c.EmailAddresses {
		add("email", v)
	}
	return f
}

// subject is the name of a certificate's holder: the first that it has of
// these.
func (f facts) subject() (string, error) {
	for _, field := range []string{"cn", "dns", "uri", "email"} {
		for _, v := range f.values[field] {
			if s := certificateName + v; len(s) <= maxSubject {
				return s, nil
			}
		}
	}
	return "", errors.New("the certificate has no name: want a common name, or a DNS name, URI or address")
}

// certificateScope is what a certificate itself says that it allows, in URIs
// such as adit:id:web-*.
func certificateScope(uris []*url.URL) (Scope, error) {
	var g grants
	for _, u := range uris {
		if u.Scheme != grantURI {
			continue
		}
		kind, value, _ := strings.Cut(u.Opaque, ":")
		switch kind {
		case "id":
			g.IDs = append(g.IDs, value)
		case "hostname":
			g.Hostnames = append(g.Hostnames, value)
		case "tcp-ports":
			g.TCPPorts = append(g.TCPPorts, value)
		case "udp-ports":
			g.UDPPorts = append(g.UDPPorts, value)
		case "forward":
			g.Forward = append(g.Forward, value)
		default:
			return Scope{}, fmt.Errorf("the certificate's URI %.80q: adit:id:, adit:hostname:, adit:tcp-ports:, adit:udp-ports: and adit:forward: are allowed", u)
		}
	}
	s, err := g.scope()
	if err != nil {
		return Scope{}, fmt.Errorf("the certificate's URIs: %w", err)
	}
	return s, nil
}
