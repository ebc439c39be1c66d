// Package auth turns a claim, what an agent says it is together with its
// proof, into an identity.
package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"net/netip"
	"time"
)

// A Claim is unchecked. It is never logged, since Token is a secret.
type Claim struct {
	Token string // bearer token or shared secret; empty if none was sent
	ID    string // the ID that the agent asks for; empty if it binds names later
	// Password goes with Token in dialects whose tokens may have one.
	Password string
	Remote   netip.AddrPort // where the claim came from

	// Certs are what the agent sent in the TLS handshake, leaf first, if it
	// has proved there that it has the leaf's key. Whether they are good for
	// anything is checked here. They count only if Token is empty.
	Certs []*x509.Certificate
}

// A Kind is a kind of credential.
type Kind string

const (
	KindSecret      Kind = "secret"
	KindJWT         Kind = "jwt"
	KindStatic      Kind = "static"
	KindCertificate Kind = "certificate"
)

// An Identity is a claim that was accepted. It does not change: several sessions
// may share one.
type Identity struct {
	Subject string    // stable name of the credential's holder, for logs and for ownership of names
	Expires time.Time // the session ends then; zero means never
	Scope   Scope     // what the identity may do; the zero Scope is nothing

	// Kind and Token say which credential it was, without being it. Token is
	// what the credential can be revoked by: the ID of a token, or the
	// fingerprint of a certificate; it may be empty.
	Kind  Kind
	Token string

	proof proof
}

// A proof is what Recheck needs of a credential.
type proof struct {
	at     int               // generation of the authenticator before it looked at the credential
	key    [sha256.Size]byte // digest of the key that the token is signed with, or of the secret
	issued time.Time         // zero if the credential does not say
	facts  facts             // for the rules of the grants file
	certs  []*x509.Certificate
}
