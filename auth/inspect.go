package auth

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// An Inspected is what a credential says of itself. Nothing of it is checked.
type Inspected struct {
	Kind      Kind
	Algorithm string // of the signature of a JWT
	ID        string // by which it can be revoked; may be empty
	Subject   string // of the identity
	Issuer    string
	Audience  []string
	Issued    time.Time // zero if it does not say, as are the next two
	NotBefore time.Time
	Expires   time.Time
	Scope     Scope // zero for static tokens, which don't say
}

// Inspect reads a token, or a certificate in PEM. It checks no signature. Its
// error does not contain the token.
func Inspect(text string) (Inspected, error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "-----BEGIN ") {
		return inspectCertificate(text)
	}
	if id, ok := StaticTokenID(text); ok {
		return Inspected{Kind: KindStatic, ID: id}, nil
	}
	if strings.HasPrefix(text, secretPrefix) {
		return Inspected{}, errors.New("this is a server's secret, or a part of a static token, and no token")
	}
	var c tokenClaims
	t, _, err := jwt.NewParser().ParseUnverified(text, &c)
	if err != nil {
		return Inspected{}, errors.New("this is no token: want a JWT, which has three parts between dots, or what begins with " + tokenPrefix)
	}
	i := Inspected{
		Kind: KindJWT, Algorithm: t.Method.Alg(), ID: c.ID, Subject: c.Subject, Issuer: c.Issuer, Audience: c.Audience,
		Issued: timeOf(c.IssuedAt), NotBefore: timeOf(c.NotBefore), Expires: timeOf(c.ExpiresAt),
	}
	if i.Scope, err = parseGrants(c.Adit); err != nil {
		return i, fmt.Errorf("claim adit: %w", err)
	}
	return i, nil
}

func timeOf(d *jwt.NumericDate) time.Time {
	if d == nil {
		return time.Time{}
	}
	return d.Time
}

func inspectCertificate(text string) (Inspected, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return Inspected{}, errors.New("this is PEM, but does not begin with a certificate")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Inspected{}, errors.New("the certificate is malformed")
	}
	i := Inspected{
		Kind: KindCertificate, ID: Fingerprint(c), Issuer: c.Issuer.String(), Issued: c.NotBefore, NotBefore: c.NotBefore, Expires: c.NotAfter,
	}
	if i.Subject, err = certificateFacts(c).subject(); err != nil {
		return i, err
	}
	i.Scope, err = certificateScope(c.URIs)
	return i, err
}
