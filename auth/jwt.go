package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	leeway   = 30 * time.Second // between the clocks of minter and server
	maxToken = 8 << 10          // bytes
	maxJTI   = 255              // bytes
)

// A signingKey is a key that verifies the tokens of one algorithm and no
// others: the secret of HS256 or the public key of another. So a public key is
// never taken for a secret, whatever a token's header says.
type signingKey struct {
	alg string
	key any // as package jwt takes it
	sum [sha256.Size]byte
}

// A jwtParser parses the tokens of one issuer.
type jwtParser struct {
	algs   []string
	parser *jwt.Parser

	// keys returns the keys that a token may be signed with. kid is the
	// token's word, or empty.
	keys func(ctx context.Context, alg, kid string) ([]signingKey, error)
}

func newJWTParser(algs []string, keys func(ctx context.Context, alg, kid string) ([]signingKey, error), more ...jwt.ParserOption) *jwtParser {
	opts := append([]jwt.ParserOption{
		jwt.WithValidMethods(algs),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway),
		jwt.WithStrictDecoding(),
	}, more...)
	return &jwtParser{algs: algs, parser: jwt.NewParser(opts...), keys: keys}
}

// parse returns the claims of a genuine token that is valid now, and the key
// that it is signed with. The error is an *Error.
func (p *jwtParser) parse(ctx context.Context, token string) (c *tokenClaims, by signingKey, err error) {
	c = &tokenClaims{}
	parsed, err := p.parser.ParseWithClaims(token, c, func(t *jwt.Token) (any, error) {
		if _, ok := t.Header["crit"]; ok { // RFC 7515, section 4.1.11: we know none of them
			return nil, jwt.ErrTokenUnverifiable
		}
		kid, _ := t.Header["kid"].(string)
		keys, err := p.keys(ctx, t.Method.Alg(), kid)
		if err != nil {
			return nil, err
		}
		signed := t.Raw[:strings.LastIndexByte(t.Raw, '.')]
		for _, k := range keys {
			if k.alg == t.Method.Alg() && t.Method.Verify(signed, t.Signature, k.key) == nil {
				by = k
				return k.key, nil
			}
		}
		return nil, jwt.ErrTokenSignatureInvalid
	})
	if err != nil {
		return nil, by, refusal(err)
	}
	if !parsed.Valid || by.key == nil {
		return nil, by, errInvalid
	}
	return c, by, nil
}

// refusal says what a parser's error comes to. Only a token whose signature is
// right gets to hear more than that it is not valid.
func refusal(err error) *Error {
	if ae, ok := errors.AsType[*Error](err); ok { // the keys are not to be had
		return ae
	}
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
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return &Error{InvalidCredential, "the token is of another issuer (claim iss)"}
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return &Error{InvalidCredential, "the token lacks one of the claims exp, aud and iss"}
	}
	return errInvalid
}

// tokenClaims are the claims of a token.
type tokenClaims struct {
	jwt.RegisteredClaims
	Adit json.RawMessage `json:"adit,omitempty"` // grants

	payload []byte // all of it
}

// UnmarshalJSON keeps the text, for the rules that look at other claims.
func (c *tokenClaims) UnmarshalJSON(b []byte) error {
	type plain tokenClaims // without this method
	c.payload = append([]byte(nil), b...)
	return json.Unmarshal(b, (*plain)(c))
}

// facts are the claims that are texts, or lists of them.
func (c *tokenClaims) facts() facts {
	f := facts{values: make(map[string][]string)}
	var all map[string]any
	if json.Unmarshal(c.payload, &all) != nil {
		return f
	}
	for name, v := range all {
		list, isList := v.([]any)
		if !isList {
			list = []any{v}
		}
		for _, v := range list {
			if text, ok := v.(string); ok && isPrintable(text) {
				f.values[name] = append(f.values[name], text)
			}
		}
	}
	return f
}

// tokenAlg returns the algorithm that a token's header names, which says who is to
// look at it and proves nothing.
func tokenAlg(token string) string {
	t, _, err := jwt.NewParser().ParseUnverified(token, &jwt.RegisteredClaims{})
	if err != nil {
		return ""
	}
	return t.Method.Alg()
}

// TokenClaims is what a token says of its holder.
type TokenClaims struct {
	ID        string    // what it can be revoked by; empty means a new one
	Subject   string    // who holds it; owns the names that it binds
	Expires   time.Time // required but for static tokens; whole seconds
	NotBefore time.Time // zero means from now on
	Audience  string    // empty means any server
	Scope     Scope     // what it allows
}

// NewTokenID returns a random ID for a token.
func NewTokenID() string {
	b := make([]byte, 10)
	rand.Read(b)
	return strings.ToLower(base32.StdEncoding.EncodeToString(b))
}

// Mint signs a token with secret. Whoever has the token can read its claims.
func Mint(secret Secret, c TokenClaims) (string, error) {
	if _, err := ParseSecret(secret.value); err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	if c.Expires.IsZero() {
		return "", errors.New("mint token: it needs a time of expiry")
	}
	if err := c.Check(); err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	allowed, err := json.Marshal(grantsOf(c.Scope))
	if err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	claims := tokenClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			ID:        c.ID,
			Subject:   c.Subject,
			ExpiresAt: jwt.NewNumericDate(c.Expires),
			IssuedAt:  jwt.NewNumericDate(time.Now()),
		},
		Adit: allowed,
	}
	if c.ID == "" {
		claims.ID = NewTokenID()
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

// Check reports what is wrong with the claims, whatever kind of token they are
// for.
func (c TokenClaims) Check() error {
	if err := checkSubject(c.Subject); err != nil {
		return fmt.Errorf("subject %w", err)
	}
	if len(c.ID) > maxJTI {
		return fmt.Errorf("id has %d bytes: it takes at most %d", len(c.ID), maxJTI)
	}
	return c.Scope.Check()
}
