package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// TunnelTokenSubject is the subject of all identities of TunnelTokens, unless
// its options name another.
const TunnelTokenSubject = "websocktunnel"

// maxTunnelTokenAge is the longest time from nbf to exp, as the documentation
// of websocktunnel has it.
const maxTunnelTokenAge = 31 * 24 * time.Hour

// TunnelTokenOptions configures TunnelTokens. Secrets is required.
type TunnelTokenOptions struct {
	// Secrets are what tokens may be signed with, one or two. Their bytes are
	// used as they are.
	Secrets []string

	// Audience, if not empty, has to be among a token's aud.
	Audience string

	// Lax accepts what the programs accepted against their documentation:
	// tokens for more than 31 days, and tokens that say nothing of an audience
	// to a server that has one.
	Lax bool

	// Subject owns the names of all these agents; empty means
	// TunnelTokenSubject. Agents with other credentials share a name with them
	// if their subject is the same.
	Subject string
}

// TunnelTokens accepts the tokens of websocktunnel and webhooktunnel: JWTs that
// are signed with HS256, and allow the one ID in their claim tid from nbf until
// exp. A session outlives its token. Its methods are safe for concurrent use.
type TunnelTokens struct {
	opts   TunnelTokenOptions
	keys   jwt.VerificationKeySet
	parser *jwt.Parser
}

// NewTunnelTokens returns a TunnelTokens. Its error is about opts.
func NewTunnelTokens(opts TunnelTokenOptions) (*TunnelTokens, error) {
	if n := len(opts.Secrets); n < 1 || n > maxSecrets {
		return nil, fmt.Errorf("auth: %d secrets for tunnel tokens: 1 to %d are allowed", n, maxSecrets)
	}
	if opts.Subject == "" {
		opts.Subject = TunnelTokenSubject
	}
	t := &TunnelTokens{opts: opts}
	for i, s := range opts.Secrets {
		if s == "" {
			return nil, fmt.Errorf("auth: secret %d for tunnel tokens is empty", i+1)
		}
		t.keys.Keys = append(t.keys.Keys, []byte(s))
	}
	t.opts.Secrets = nil // not needed any more, and not to be shown
	t.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithoutClaimsValidation(), // ours differ
		jwt.WithStrictDecoding(),
	)
	return t, nil
}

// Authenticate turns a claim into an identity, which may bind the ID that the
// claim asks for and no other. Its error is an *Error.
func (t *TunnelTokens) Authenticate(_ context.Context, c Claim) (*Identity, error) {
	if c.Token == "" {
		return nil, &Error{MissingCredential, "no credential was sent"}
	}
	if len(c.Token) > maxToken {
		return nil, errInvalid
	}
	var claims rawClaims
	_, err := t.parser.ParseWithClaims(c.Token, &claims, func(tok *jwt.Token) (any, error) {
		if _, ok := tok.Header["crit"]; ok { // RFC 7515, section 4.1.11: we know none of them
			return nil, jwt.ErrTokenUnverifiable
		}
		return t.keys, nil
	})
	if err != nil {
		return nil, refusal(err)
	}
	if err := t.check(claims, c.ID, time.Now()); err != nil {
		return nil, err
	}
	return &Identity{Subject: t.opts.Subject, Scope: Scope{IDs: []string{c.ID}}}, nil
}

// check looks at the claims of a genuine token.
func (t *TunnelTokens) check(c rawClaims, id string, now time.Time) *Error {
	invalid := func(format string, args ...any) *Error {
		return &Error{InvalidCredential, fmt.Sprintf(format, args...)}
	}
	var tid *string
	if json.Unmarshal(c["tid"], &tid) != nil || tid == nil {
		return invalid("the token's claim tid is missing or no text")
	}
	if *tid != id || id == "" {
		return &Error{Forbidden, fmt.Sprintf("the token is for another id than %.64q (claim tid)", id)}
	}
	nbf, ok := c.seconds("nbf")
	if !ok {
		return invalid("the token's claim nbf is missing or no number of seconds above 0")
	}
	exp, ok := c.seconds("exp")
	if !ok {
		return invalid("the token's claim exp is missing or no number of seconds above 0")
	}
	at := float64(now.UnixNano()) / 1e9
	switch {
	case nbf > at:
		return &Error{NotYetValid, "the token is not valid yet by the server's clock (claim nbf)"}
	case exp <= at:
		return &Error{ExpiredCredential, "the token has expired (claim exp)"}
	case !t.opts.Lax && exp-nbf > maxTunnelTokenAge.Seconds():
		return invalid("the token is valid for more than 31 days (claims nbf and exp)")
	case !t.forUs(c["aud"]):
		return invalid("the token is for another audience, or for none (claim aud)")
	}
	return nil
}

// forUs judges the claim aud.
func (t *TunnelTokens) forUs(claim json.RawMessage) bool {
	if t.opts.Audience == "" {
		return true
	}
	var one *string
	var list []string
	if json.Unmarshal(claim, &one) == nil && one != nil {
		list = []string{*one}
	} else if json.Unmarshal(claim, &list) != nil {
		list = nil
	}
	if t.opts.Lax && !slices.ContainsFunc(list, func(s string) bool { return s != "" }) {
		return true // it says nothing
	}
	return slices.Contains(list, t.opts.Audience)
}

// rawClaims are claims as they were written, for rules that tell a missing
// number from 0 and a number from one in quotes.
type rawClaims map[string]json.RawMessage

// seconds returns a claim that is a time.
func (c rawClaims) seconds(name string) (float64, bool) {
	f, err := strconv.ParseFloat(string(c[name]), 64)
	if errors.Is(err, strconv.ErrRange) {
		err = nil // infinity will do
	}
	return f, err == nil && f > 0
}

var _ jwt.Claims = rawClaims{}

func (rawClaims) GetExpirationTime() (*jwt.NumericDate, error) { return nil, nil }
func (rawClaims) GetIssuedAt() (*jwt.NumericDate, error)       { return nil, nil }
func (rawClaims) GetNotBefore() (*jwt.NumericDate, error)      { return nil, nil }
func (rawClaims) GetIssuer() (string, error)                   { return "", nil }
func (rawClaims) GetSubject() (string, error)                  { return "", nil }
func (rawClaims) GetAudience() (jwt.ClaimStrings, error)       { return nil, nil }
