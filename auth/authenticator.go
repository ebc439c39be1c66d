package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"adit/tunnel"
)

const (
	// SecretSubject is the subject of whoever shows a shared secret itself.
	// No token may claim it.
	SecretSubject = "secret"

	leeway     = 30 * time.Second // between the clocks of minter and server
	maxToken   = 8 << 10          // bytes
	maxSubject = 255              // bytes
	maxSecrets = 2
)

// Options configures an Authenticator. The zero value refuses everybody.
type Options struct {
	// Secrets are what agents may show, and what tokens may be signed with.
	// There are two at most: the one in use, and the one that replaces it or
	// that it replaces.
	Secrets []Secret

	// Audience, if not empty, has to be among a token's "aud".
	Audience string
}

// An Authenticator accepts a shared secret, which allows everything, or a
// token: a JWT (RFC 7519) signed with HS256 under a shared secret. Its methods
// are safe for concurrent use.
type Authenticator struct {
	sums   [][sha256.Size]byte // of the secrets
	keys   jwt.VerificationKeySet
	parser *jwt.Parser
}

// NewAuthenticator returns an Authenticator. Its error is about opts.
func NewAuthenticator(opts Options) (*Authenticator, error) {
	if n := len(opts.Secrets); n > maxSecrets {
		return nil, fmt.Errorf("auth: %d secrets: at most %d are allowed", n, maxSecrets)
	}
	a := &Authenticator{}
	for i, s := range opts.Secrets {
		if _, err := ParseSecret(s.value); err != nil {
			return nil, fmt.Errorf("auth: secret %d: %w", i+1, err)
		}
		a.sums = append(a.sums, sha256.Sum256([]byte(s.value)))
		a.keys.Keys = append(a.keys.Keys, []byte(s.value))
	}
	popts := []jwt.ParserOption{
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway),
		jwt.WithStrictDecoding(),
	}
	if opts.Audience != "" {
		popts = append(popts, jwt.WithAudience(opts.Audience))
	}
	a.parser = jwt.NewParser(popts...)
	return a, nil
}

// errInvalid is the same for a secret that is wrong, a token that is malformed
// and one that was signed by somebody else, so that nothing is learned from it.
var errInvalid = &Error{InvalidCredential, "the credential is not valid here"}

// Authenticate turns a claim into an identity. Its error is an *Error. If the
// claim asks for an ID, the identity is allowed to bind it.
func (a *Authenticator) Authenticate(_ context.Context, c Claim) (*Identity, error) {
	id, err := a.identify(c.Token)
	if err != nil {
		return nil, err
	}
	if c.ID != "" && !id.Scope.AllowsID(tunnel.ID(c.ID)) {
		return nil, &Error{Forbidden, fmt.Sprintf("the credential does not allow the id %.64q", c.ID)}
	}
	return id, nil
}

func (a *Authenticator) identify(token string) (*Identity, error) {
	if token == "" {
		return nil, &Error{MissingCredential, "no credential was sent"}
	}
	if len(token) > maxToken || len(a.sums) == 0 {
		return nil, errInvalid
	}
	if a.isSecret(token) {
		return &Identity{Subject: SecretSubject, Scope: Everything()}, nil
	}

	var claims tokenClaims
	parsed, err := a.parser.ParseWithClaims(token, &claims, func(t *jwt.Token) (any, error) {
		if _, ok := t.Header["crit"]; ok { // RFC 7515, section 4.1.11: we know none of them
			return nil, jwt.ErrTokenUnverifiable
		}
		return a.keys, nil
	})
	if err != nil {
		return nil, refusal(err)
	}
	if !parsed.Valid {
		return nil, errInvalid
	}
	return claims.identity()
}

// isSecret compares in a time that depends on the length of token alone.
func (a *Authenticator) isSecret(token string) bool {
	sum := sha256.Sum256([]byte(token))
	found := 0
	for _, s := range a.sums {
		found |= subtle.ConstantTimeCompare(sum[:], s[:])
	}
	return found == 1
}

// refusal says what a parser's error comes to. Only a token whose signature is
// right gets to hear more than that it is not valid.
func refusal(err error) *Error {
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed),
		errors.Is(err, jwt.ErrTokenUnverifiable),
		errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return errInvalid
	case errors.Is(err, jwt.ErrTokenExpired):
		return &Error{ExpiredCredential, "the token has expired"}
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return &Error{NotYetValid, "the token is not valid yet by the server's clock"}
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return &Error{InvalidCredential, "the token is for another audience (claim aud)"}
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return &Error{InvalidCredential, "the token lacks the claim exp, or aud"}
	}
	return errInvalid
}

// tokenClaims are the claims of a token.
type tokenClaims struct {
	jwt.RegisteredClaims
	Adit json.RawMessage `json:"adit,omitempty"` // grants
}

// identity turns the claims of a genuine token into an identity.
func (c *tokenClaims) identity() (*Identity, error) {
	if err := checkSubject(c.Subject); err != nil {
		return nil, &Error{InvalidCredential, "claim sub: " + err.Error()}
	}
	scope, err := parseGrants(c.Adit)
	if err != nil {
		return nil, &Error{InvalidCredential, "claim adit: " + err.Error()}
	}
	return &Identity{
		Subject: c.Subject,
		// As long as the token is accepted.
		Expires: c.ExpiresAt.Add(leeway),
		Scope:   scope,
	}, nil
}

func checkSubject(s string) error {
	switch {
	case s == "":
		return errors.New("is missing")
	case len(s) > maxSubject:
		return fmt.Errorf("has %d bytes: it takes 1 to %d", len(s), maxSubject)
	case s == SecretSubject:
		return fmt.Errorf("%q is reserved", s)
	case !utf8.ValidString(s):
		return fmt.Errorf("%q is not UTF-8", s)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%q has the character %U: only printable ones are allowed", s, r)
		}
	}
	return nil
}

// TokenClaims is what a token says of its holder.
type TokenClaims struct {
	Subject   string    // who holds it; owns the names that it binds
	Expires   time.Time // required; whole seconds
	NotBefore time.Time // zero means from now on
	Audience  string    // empty means any server
	Scope     Scope     // what it allows
}

// Mint signs a token with secret. Whoever has the token can read its claims.
func Mint(secret Secret, c TokenClaims) (string, error) {
	if _, err := ParseSecret(secret.value); err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	if err := checkSubject(c.Subject); err != nil {
		return "", fmt.Errorf("mint token: subject %w", err)
	}
	if c.Expires.IsZero() {
		return "", errors.New("mint token: it needs a time of expiry")
	}
	if err := c.Scope.Check(); err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	allowed, err := json.Marshal(grantsOf(c.Scope))
	if err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	claims := tokenClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   c.Subject,
			ExpiresAt: jwt.NewNumericDate(c.Expires),
			IssuedAt:  jwt.NewNumericDate(time.Now()),
		},
		Adit: allowed,
	}
	if !c.NotBefore.IsZero() {
		claims.NotBefore = jwt.NewNumericDate(c.NotBefore)
	}
	if c.Audience != "" {
		claims.Audience = jwt.ClaimStrings{c.Audience}
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, &claims).SignedString([]byte(secret.value))
	if err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	return token, nil
}
