// Package auth turns a claim, what an agent says it is together with its
// proof, into an identity.
package auth

import (
	"crypto/x509"
	"net/netip"
	"time"
)

// A Claim is unchecked. It is never logged, since Token is a secret.
type Claim struct {
	Token  string              // bearer token or shared secret; empty if none was sent
	ID     string              // the ID that the agent asks for; empty if it binds names later
	Remote netip.AddrPort      // where the claim came from
	Certs  []*x509.Certificate // verified client certificate chain, leaf first
}

// An Identity is a claim that was accepted.
type Identity struct {
	Subject string    // stable name of the credential's holder, for logs and for ownership of names
	Expires time.Time // the session ends then; zero means never
	Scope   Scope     // what the identity may do; the zero Scope is nothing
}
