package policy

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

const (
	maxChain           = 8 // certificates that a visitor may show
	certificateChecked = 5 * time.Minute
)

// parseCA reads certificates in PEM, at least one and nothing else.
func parseCA(text string) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it has a PEM block %.40q: only CERTIFICATE is allowed", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("it has a malformed certificate")
		}
		if c.BasicConstraintsValid && !c.IsCA {
			return nil, fmt.Errorf("the certificate of %.80q is not that of an authority", c.Subject.String())
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, errors.New("it has no certificate: want PEM, which begins with -----BEGIN CERTIFICATE-----")
	}
	return list, nil
}

// certificates checks those that visitors show.
type certificates struct {
	roots    *x509.CertPool
	verified *verified
}

// newCertificates returns nil for no authorities.
func newCertificates(text string) *certificates {
	if text == "" {
		return nil
	}
	list, err := parseCA(text)
	if err != nil {
		panic("policy: " + err.Error()) // it was checked
	}
	c := &certificates{roots: x509.NewCertPool(), verified: newVerified()}
	for _, ca := range list {
		c.roots.AddCert(ca)
	}
	return c
}

// admit verifies a chain, leaf first, of which the visitor has shown in the TLS
// handshake that it has the key. A resumed session brings the chain of its first
// handshake, which is looked at like any other.
func (c *certificates) admit(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return &Denied{Code: CodeCertificate, reason: "no certificate"}
	}
	if len(chain) > maxChain {
		return &Denied{Code: CodeCertificate, reason: "too many certificates"}
	}
	raw := make([][]byte, len(chain))
	for i := range chain {
		raw[i] = chain[i].Raw
	}
	p := c.verified.digest(raw...)
	if c.verified.has(p) {
		return nil
	}
	opts := x509.VerifyOptions{
		Roots:         c.roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   time.Now(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, ca := range chain[1:] {
		opts.Intermediates.AddCert(ca)
	}
	found, err := chain[0].Verify(opts)
	if err != nil {
		return &Denied{Code: CodeCertificate, reason: err.Error()}
	}
	until := time.Now().Add(certificateChecked)
	for _, ca := range found[0] {
		if ca.NotAfter.Before(until) {
			until = ca.NotAfter
		}
	}
	c.verified.add(p, until)
	return nil
}
