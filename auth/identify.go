package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"adit/tunnel"
)

var (
	// errInvalid is the same for a secret that is wrong, a token that is
	// malformed and one that was signed by somebody else, so that nothing is
	// learned from it.
	errInvalid = &Error{InvalidCredential, "the credential is not valid here"}

	errRevoked = &Error{RevokedCredential, "the credential was revoked"}
	errExpired = &Error{ExpiredCredential, "the credential has expired"}
	errNothing = &Error{Forbidden, "the credential is valid, and allows nothing here"}
)

// Authenticate turns a claim into an identity. Its error is an *Error. If the
// claim asks for an ID, the identity is allowed to bind it.
func (a *Authenticator) Authenticate(ctx context.Context, c Claim) (*Identity, error) {
	at := a.version()
	id, err := a.identify(ctx, c)
	if err != nil {
		return nil, err
	}
	id.proof.at = at
	if id.Scope.IsZero() {
		return nil, errNothing
	}
	if c.ID != "" && !id.Scope.AllowsID(tunnel.ID(c.ID)) {
		return nil, &Error{Forbidden, fmt.Sprintf("the credential does not allow the id %.64q", c.ID)}
	}
	return a.shared(id), nil
}

// shared returns one identity for all who hold the same shared secret, as the
// agents of a small server do. That of any other credential is its own.
func (a *Authenticator) shared(id *Identity) *Identity {
	if id.Kind != KindSecret {
		return id
	}
	if one := a.ofSecret.Load(); one != nil && one.proof.key == id.proof.key && one.proof.at == id.proof.at {
		return one
	}
	a.ofSecret.Store(id)
	return id
}

func (a *Authenticator) identify(ctx context.Context, c Claim) (*Identity, error) {
	switch {
	case c.Token == "" && len(c.Certs) > 0 && a.authorities != nil:
		return a.byCertificate(c.Certs)
	case c.Token == "":
		return nil, &Error{MissingCredential, "no credential was sent"}
	case len(c.Token) > maxToken:
		return nil, errInvalid
	}
	if sum, ok := a.isSecret(c.Token); ok {
		return &Identity{Subject: SecretSubject, Scope: Everything(), Kind: KindSecret, proof: proof{key: sum}}, nil
	}
	if strings.HasPrefix(c.Token, tokenPrefix) {
		if a.tokens == nil {
			return nil, errInvalid
		}
		return a.byStatic(c.Token)
	}
	alg := tokenAlg(c.Token)
	switch {
	case alg == algHS256 && len(a.secrets) > 0:
		return a.byToken(ctx, c.Token, a.bySecret, "")
	case slices.Contains(asymmetric, alg) && a.byKeys != nil:
		return a.byToken(ctx, c.Token, a.byKeys, issuerName)
	}
	return nil, errInvalid
}

// byStatic identifies the holder of a static token, also of one that was made
// just now.
func (a *Authenticator) byStatic(token string) (*Identity, error) {
	id, err := a.tokens.get().identify(token)
	if err != errInvalid {
		return id, err
	}
	if err := a.tokens.reload(); err != nil {
		a.logNotReloaded(err)
	}
	return a.tokens.get().identify(token)
}

// isSecret compares in a time that depends on the length of token alone.
func (a *Authenticator) isSecret(token string) (sum [sha256.Size]byte, ok bool) {
	sum = sha256.Sum256([]byte(token))
	return sum, a.hasSecret(sum)
}

func (a *Authenticator) hasSecret(sum [sha256.Size]byte) bool {
	found := 0
	for _, w := range a.secrets {
		s := sha256.Sum256([]byte(w.get().value))
		found |= subtle.ConstantTimeCompare(sum[:], s[:])
	}
	return found == 1
}

// secretKeys are what tokens under a secret may be signed with.
func (a *Authenticator) secretKeys(_ context.Context, alg, _ string) ([]signingKey, error) {
	keys := make([]signingKey, len(a.secrets))
	for i, w := range a.secrets {
		value := []byte(w.get().value)
		keys[i] = signingKey{alg: algHS256, key: value, sum: sha256.Sum256(value)}
	}
	return keys, nil
}

// byToken identifies the holder of a JWT. Each issuer's holders have names of
// their own, which begin with prefix.
func (a *Authenticator) byToken(ctx context.Context, token string, p *jwtParser, prefix string) (*Identity, error) {
	c, key, err := p.parse(ctx, token)
	if err != nil {
		return nil, err
	}
	if err := checkSubject(c.Subject); err != nil {
		return nil, &Error{InvalidCredential, "claim sub: " + err.Error()}
	}
	if len(c.ID) > maxJTI {
		return nil, &Error{InvalidCredential, fmt.Sprintf("claim jti has %d bytes: it takes at most %d", len(c.ID), maxJTI)}
	}
	i := &Identity{
		Subject: prefix + c.Subject,
		Expires: c.ExpiresAt.Add(leeway), // as long as the token is accepted
		Kind:    KindJWT,
		Token:   c.ID,
		proof:   proof{key: key.sum},
	}
	if c.IssuedAt != nil {
		i.proof.issued = c.IssuedAt.Time
	}
	if p == a.byKeys && a.grants != nil {
		i.proof.facts = c.facts()
		i.Scope = a.grants.get().scope(i.proof.facts)
	} else if i.Scope, err = parseGrants(c.Adit); err != nil {
		return nil, &Error{InvalidCredential, "claim adit: " + err.Error()}
	}
	if a.isRevoked(i) {
		return nil, errRevoked
	}
	return i, nil
}

// byCertificate identifies the holder of a certificate.
func (a *Authenticator) byCertificate(certs []*x509.Certificate) (*Identity, error) {
	expires, err := verifyCertificate(a.authorities.get(), certs)
	if err != nil {
		return nil, err
	}
	f := certificateFacts(certs[0])
	subject, err := f.subject()
	if err != nil {
		return nil, &Error{InvalidCredential, err.Error()}
	}
	i := &Identity{
		Subject: subject,
		Expires: expires,
		Kind:    KindCertificate,
		Token:   Fingerprint(certs[0]),
		proof:   proof{issued: certs[0].NotBefore, certs: certs},
	}
	if a.grants != nil {
		i.Scope = a.grants.get().scope(f)
	} else if i.Scope, err = certificateScope(certs[0].URIs); err != nil {
		return nil, &Error{InvalidCredential, err.Error()}
	}
	if a.isRevoked(i) {
		return nil, errRevoked
	}
	return i, nil
}

func (a *Authenticator) isRevoked(i *Identity) bool {
	return a.tokens != nil && a.tokens.get().revoked(i.Token, i.Subject, i.proof.issued)
}

// Recheck looks again at the credential that an identity comes from, and
// returns what it is worth now. The error says why it would not be accepted
// any more: it has expired, it was revoked, its key is no longer in force, or
// it allows nothing now.
func (a *Authenticator) Recheck(i *Identity) (*Identity, error) {
	if !i.Expires.IsZero() && !time.Now().Before(i.Expires) {
		return nil, errExpired
	}
	at := a.version()
	if i.proof.at == at { // nothing has changed
		return i, nil
	}
	withdrawn := &Error{RevokedCredential, "the key of the credential was withdrawn"}
	now := *i
	switch i.Kind {
	case KindSecret:
		if !a.hasSecret(i.proof.key) {
			return nil, &Error{RevokedCredential, "the secret was replaced"}
		}
	case KindStatic:
		if err := a.tokens.get().checkStatic(i); err != nil {
			return nil, err
		}
	case KindCertificate:
		again, err := a.byCertificate(i.proof.certs)
		if err != nil {
			return nil, err
		}
		now = *again
	case KindJWT:
		if !a.hasSecret(i.proof.key) && (a.keys == nil || !a.keys.has(i.proof.key)) {
			return nil, withdrawn
		}
		if a.isRevoked(i) {
			return nil, errRevoked
		}
		if i.proof.facts.values != nil {
			now.Scope = a.grants.get().scope(i.proof.facts)
		}
	default: // somebody else has looked at it
		return i, nil
	}
	if now.Scope.IsZero() {
		return nil, errNothing
	}
	now.proof.at = at
	return a.shared(&now), nil
}

func checkSubject(s string) error {
	switch {
	case s == "":
		return errors.New("is missing")
	case len(s) > maxSubject:
		return fmt.Errorf("has %d bytes: it takes 1 to %d", len(s), maxSubject)
	case s == SecretSubject, strings.HasPrefix(s, certificateName), strings.HasPrefix(s, issuerName):
		return fmt.Errorf("%q is reserved: %q, and what begins with %q or %q", s, SecretSubject, certificateName, issuerName)
	case !isPrintable(s):
		return fmt.Errorf("%q has characters that do not print", s)
	}
	return nil
}
