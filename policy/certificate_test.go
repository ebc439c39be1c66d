package policy

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/testca"
)

// A ca is an authority, or below another one.
type ca struct {
	own  tls.Certificate
	cert *x509.Certificate
	pem  []byte
}

func newCA(t testing.TB) *ca { return (*ca)(nil).issue(t, func(c *x509.Certificate) { authority(c) }) }

func authority(c *x509.Certificate) {
	c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
}

// issue makes a certificate, which a nil ca signs itself.
func (a *ca) issue(t testing.TB, change func(*x509.Certificate)) *ca {
	t.Helper()
	c := x509.Certificate{
		Subject:               pkix.Name{CommonName: "visitor"},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	change(&c)
	var by *tls.Certificate
	if a != nil {
		by = &a.own
	}
	own := testca.Sign(t, c, by)
	text, _ := testca.PEM(t, own)
	return &ca{own, own.Leaf, text}
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	root, stranger := newCA(t), newCA(t)
	middle := root.issue(t, func(c *x509.Certificate) { authority(c) })
	visitor := func(c *x509.Certificate) {}
	good := root.issue(t, visitor)
	below := middle.issue(t, visitor)
	g := guard(t, Policy{VisitorCA: string(root.pem)})
	if pem, required := g.VisitorCA(); !required || pem != string(root.pem) {
		t.Errorf("VisitorCA: %q, %v", pem, required)
	}
	if _, required := guard(t, Policy{MaxBody: 1}).VisitorCA(); required {
		t.Error("a policy without authorities requires a certificate")
	}
	var many []*x509.Certificate
	for range maxChain + 1 {
		many = append(many, good.cert)
	}
	for name, tt := range map[string]struct {
		chain []*x509.Certificate
		want  Code
	}{
		"good":                  {[]*x509.Certificate{good.cert}, ""},
		"with intermediate":     {[]*x509.Certificate{below.cert, middle.cert}, ""},
		"without intermediate":  {[]*x509.Certificate{below.cert}, CodeCertificate},
		"none":                  {nil, CodeCertificate},
		"other authority":       {[]*x509.Certificate{stranger.issue(t, visitor).cert}, CodeCertificate},
		"stranger, then ours":   {[]*x509.Certificate{stranger.issue(t, visitor).cert, root.cert}, CodeCertificate},
		"ours behind a strange": {[]*x509.Certificate{stranger.cert, good.cert}, CodeCertificate},
		"self-signed":           {[]*x509.Certificate{(*ca)(nil).issue(t, visitor).cert}, CodeCertificate},
		"too many":              {many, CodeCertificate},
		"expired": {[]*x509.Certificate{root.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }).cert},
			CodeCertificate},
		"not yet": {[]*x509.Certificate{root.issue(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }).cert},
			CodeCertificate},
		"for servers": {[]*x509.Certificate{root.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }).cert},
			CodeCertificate},
		"below a visitor's": {[]*x509.Certificate{good.issue(t, visitor).cert, good.cert}, CodeCertificate},
	} {
		for range 2 { // the second time it may be remembered
			r := request()
			r.Certificates = func() []*x509.Certificate { return tt.chain }
			if got := admit(t, g, r); got != tt.want {
				t.Errorf("%s: got %q, want %q", name, got, tt.want)
			}
		}
	}
	if got := admit(t, g, request()); got != CodeCertificate {
		t.Errorf("no TLS: got %q, want %q", got, CodeCertificate)
	}
}

// A long connection, or a resumed session, does not outlive its certificate.
func TestCertificateExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := newCA(t)
		leaf := root.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Minute) })
		g := guard(t, Policy{VisitorCA: string(root.pem)})
		r := request()
		r.Certificates = func() []*x509.Certificate { return []*x509.Certificate{leaf.cert} }
		for _, want := range []Code{"", "", "", CodeCertificate, CodeCertificate} {
			if got := admit(t, g, r); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			time.Sleep(25 * time.Second)
		}
	})
}
