package wayout

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"

	"adit/internal/printable"
	"adit/internal/undertls"
)

// maxIssuer bounds what an error tells of a certificate's issuer, in bytes.
const maxIssuer = 100

// Secure does TLS over conn. An error about an authority that is not known here
// is an *Error that names it. ctx bounds the handshake. conn stays the caller's
// to close if there is an error.
func Secure(ctx context.Context, conn net.Conn, config *tls.Config) (*tls.Conn, error) {
	t := tls.Client(undertls.New(conn, nil), config)
	err := t.HandshakeContext(ctx)
	if err == nil {
		return t, nil
	}
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		issuer := "nobody"
		if ve, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && len(ve.UnverifiedCertificates) > 0 {
			issuer = issuerOf(ve.UnverifiedCertificates[0])
		}
		return nil, &Error{Kind: Untrusted, Issuer: issuer, Err: err}
	}
	return nil, err
}

// issuerOf names who has signed c, in a form that is fit for an error.
func issuerOf(c *x509.Certificate) string {
	name := c.Issuer.CommonName
	if org := c.Issuer.Organization; len(org) > 0 && org[0] != name {
		name = strings.TrimPrefix(name+", "+org[0], ", ")
	}
	if name == "" {
		name = c.Issuer.String()
	}
	return printable.Cut(printable.Text(name), maxIssuer)
}
