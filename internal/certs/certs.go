// Package certs has the certificates that a server shows to visitors: from
// files, which it reads again when they change, or made by itself for
// development.
//
//	files, err := certs.Open([]certs.Pair{{Cert: "site.pem", Key: "site.key"}}, certs.Options{})
//	go files.Watch(ctx)
//	config := &tls.Config{GetCertificate: files.Certificate}
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
)

// ErrNone says that there is no certificate for a name.
var ErrNone = errors.New("certs: no certificate for this name")

// A set is certificates by the names that they are for. It does not change.
type set struct {
	first  []*tls.Certificate // for visitors who name nobody
	byName map[string][]*tls.Certificate
}

// newSet returns a set of certificates, in the order of preference. Each has
// its Leaf.
func newSet(all []*tls.Certificate) *set {
	s := &set{byName: make(map[string][]*tls.Certificate)}
	for _, c := range all {
		for _, name := range c.Leaf.DNSNames {
			name = strings.TrimSuffix(strings.ToLower(name), ".")
			s.byName[name] = append(s.byName[name], c)
		}
	}
	if len(all) > 0 {
		s.first = sameNames(all[0], all)
	}
	return s
}

// sameNames returns c and those of all that are for the same names, with
// another kind of key, say.
func sameNames(c *tls.Certificate, all []*tls.Certificate) (same []*tls.Certificate) {
	for _, other := range all {
		if strings.Join(other.Leaf.DNSNames, " ") == strings.Join(c.Leaf.DNSNames, " ") {
			same = append(same, other)
		}
	}
	return same
}

// find returns the certificates for a name in lower case, which is empty for
// visitors who name nobody. A wildcard stands for one label (RFC 6125, section
// 6.4.3).
func (s *set) find(name string) []*tls.Certificate {
	if name == "" {
		return s.first
	}
	if c := s.byName[name]; c != nil {
		return c
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		return s.byName["*."+parent]
	}
	return nil
}

// choose returns the first of the name's certificates that the visitor can
// check.
func (s *set) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	found := s.find(strings.ToLower(hello.ServerName))
	for _, c := range found {
		if hello.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	if len(found) == 0 {
		return nil, ErrNone
	}
	return found[0], nil // the handshake finds what is wrong
}

// covers reports whether what visitors get who ask for name is good for host.
func (s *set) covers(name, host string) bool {
	found := s.find(name)
	for _, c := range found {
		if c.Leaf.VerifyHostname(host) != nil {
			return false
		}
	}
	return len(found) > 0
}

// isFor reports whether a certificate is for name, or for all names below it.
func isFor(leaf *x509.Certificate, name string) bool {
	for _, n := range leaf.DNSNames {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}
