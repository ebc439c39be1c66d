package policy

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"adit/tunnel"
)

const (
	viewerKeySize = 32
	minMasterKey  = 16
	maxToken      = 2 << 10 // bytes
	maxUsed       = 4096    // tokens for one use that a guard remembers
	maxCookies    = 8       // of a request that are looked at
	viewerLeeway  = 30 * time.Second
	viewerChecked = time.Minute // how long a token is good without another look

	// ViewerHeader carries a viewer token; like all fields of its prefix it is
	// taken out at the ingress.
	ViewerHeader = "Adit-Viewer"

	// ViewerParameter of a query carries one on the first visit.
	ViewerParameter = "adit-viewer"

	viewerCookie     = "adit-viewer"
	viewerHostCookie = "__Host-adit-viewer" // browsers take it over TLS only, for one host
)

// A ViewerKey signs and verifies the viewer tokens of one ID. However it is
// printed it shows as [redacted]; MarshalText has the key.
type ViewerKey struct{ key string }

// NewViewerKey derives the key of an ID from a master key of at least 16 bytes,
// so that whoever has one ID's key, as the server does, has no other.
func NewViewerKey(master []byte, id tunnel.ID) (ViewerKey, error) {
	if len(master) < minMasterKey {
		return ViewerKey{}, fmt.Errorf("viewer key has %d bytes: it takes at least %d", len(master), minMasterKey)
	}
	key, err := hkdf.Key(sha256.New, master, nil, "adit viewer tokens 1 "+string(id), viewerKeySize)
	return ViewerKey{string(key)}, err
}

// Format implements fmt.Formatter, for every verb.
func (k ViewerKey) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (k ViewerKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler: base64url without padding.
func (k ViewerKey) MarshalText() ([]byte, error) {
	return []byte(base64.RawURLEncoding.EncodeToString([]byte(k.key))), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *ViewerKey) UnmarshalText(text []byte) error {
	b, err := base64.RawURLEncoding.Strict().DecodeString(string(text))
	if err != nil || len(b) != viewerKeySize {
		return fmt.Errorf("a viewer key is not %d bytes in base64url", viewerKeySize)
	}
	k.key = string(b)
	return nil
}

// A Viewer is what a viewer token says.
type Viewer struct {
	Name    string    // of the visitor, for the one who gives tokens out; may be empty
	Expires time.Time // required; whole seconds
	Once    bool      // the token is good in one link, once
}

type viewerClaims struct {
	jwt.RegisteredClaims
	Once bool `json:"once,omitempty"`
}

// viewerAudience keeps a token to one ID, and apart from tokens of agents.
func viewerAudience(id tunnel.ID) string { return "adit-viewer:" + string(id) }

// MintViewer signs a token with which a visitor may enter the tunnel id: a JWT
// (RFC 7519) with HS256. Whoever has the token can read what it says.
func MintViewer(key ViewerKey, id tunnel.ID, v Viewer) (string, error) {
	if len(key.key) != viewerKeySize {
		return "", errors.New("mint viewer token: the key is empty")
	}
	if v.Expires.IsZero() {
		return "", errors.New("mint viewer token: it needs a time of expiry")
	}
	if len(v.Name) > maxUser || !utf8.ValidString(v.Name) || strings.ContainsFunc(v.Name, unsuitable) {
		return "", fmt.Errorf("mint viewer token: name %.40q: want at most %d printable characters without ':'", v.Name, maxUser)
	}
	c := viewerClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   v.Name,
			Audience:  jwt.ClaimStrings{viewerAudience(id)},
			ExpiresAt: jwt.NewNumericDate(v.Expires),
			IssuedAt:  jwt.NewNumericDate(time.Now()),
		},
		Once: v.Once,
	}
	if v.Once {
		c.ID = rand.Text()
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, &c).SignedString([]byte(key.key))
	if err != nil {
		return "", fmt.Errorf("mint viewer token: %w", err)
	}
	return token, nil
}

// viewers checks viewer tokens.
type viewers struct {
	id        tunnel.ID
	keys      []ViewerKey
	set       jwt.VerificationKeySet
	parser    *jwt.Parser
	verified  *verified
	challenge string

	mu   sync.Mutex // guards used
	used map[string]time.Time
}

// newViewers returns nil without keys.
func newViewers(keys []ViewerKey, id tunnel.ID) *viewers {
	if len(keys) == 0 {
		return nil
	}
	c := &viewers{
		id:        id,
		keys:      keys,
		verified:  newVerified(),
		used:      make(map[string]time.Time),
		challenge: `Bearer realm="` + quotable(string(id)) + `"`,
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
			jwt.WithExpirationRequired(),
			jwt.WithIssuedAt(),
			jwt.WithLeeway(viewerLeeway),
			jwt.WithAudience(viewerAudience(id)),
			jwt.WithStrictDecoding(),
		),
	}
	for _, k := range keys {
		c.set.Keys = append(c.set.Keys, []byte(k.key))
	}
	return c
}

var (
	errViewerInvalid = errors.New("not a token of this tunnel")
	errViewerExpired = errors.New("the token has expired")
)

// parse returns what a token says if it is genuine, and in time.
func (c *viewers) parse(token string) (*viewerClaims, error) {
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return nil, errViewerInvalid
	}
	var claims viewerClaims
	_, err := c.parser.ParseWithClaims(token, &claims, func(t *jwt.Token) (any, error) {
		if _, ok := t.Header["crit"]; ok { // RFC 7515, section 4.1.11: we know none of them
			return nil, jwt.ErrTokenUnverifiable
		}
		return c.set, nil
	})
	switch {
	case err == nil:
		return &claims, nil
	case errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenInvalidAudience):
		return nil, errViewerExpired
	}
	return nil, errViewerInvalid
}

// check reports whether token lets a visitor in with each request: those for
// one use do not.
func (c *viewers) check(token string) error {
	p := c.verified.digest([]byte(token))
	if c.verified.has(p) {
		return nil
	}
	claims, err := c.parse(token)
	if err != nil {
		return err
	}
	if claims.Once {
		return errViewerInvalid
	}
	until := time.Now().Add(viewerChecked)
	if end := claims.ExpiresAt.Add(viewerLeeway); end.Before(until) {
		until = end
	}
	c.verified.add(p, until)
	return nil
}

// admit looks for a token in a request, and returns where the visitor is to be
// sent if one came with the address: such a request is not passed on. bearer
// says that the token was the Authorization field.
func (c *viewers) admit(r *Request) (to *Redirect, bearer bool, err error) {
	token, rest, inAddress := cutParameter(r.Target)
	safe := r.Method == "GET" || r.Method == "HEAD"
	why := errors.New("no token")
	if inAddress && safe {
		if to, why = c.exchange(r, token, rest); why == nil {
			return to, false, nil
		}
	}
	found, bearer, err := c.find(r)
	switch {
	case found && inAddress && safe: // a used link, by who has used it
		return &Redirect{Location: rest}, false, nil
	case found && inAddress:
		why = errors.New("a token in the address, and a method other than GET")
	case found:
		return nil, bearer, nil
	case err != nil && why != errViewerExpired:
		why = err
	}
	d := &Denied{Code: CodeViewer, Challenge: c.challenge, reason: why.Error()}
	if why == errViewerExpired {
		d.Code = CodeViewerExpired
	}
	return nil, false, d
}

// find looks for a token in the fields of a request. err is what is wrong with
// those that it has, if any.
func (c *viewers) find(r *Request) (found, bearer bool, err error) {
	try := func(token string) bool {
		why := c.check(token)
		if why != nil && err != errViewerExpired {
			err = why
		}
		return why == nil
	}
	// A field that stands twice could be read in two ways.
	if fields := r.Values(ViewerHeader); len(fields) == 1 && try(fields[0]) {
		return true, false, nil
	}
	if fields := r.Values("Authorization"); len(fields) == 1 {
		scheme, token, _ := strings.Cut(fields[0], " ")
		if strings.EqualFold(scheme, "Bearer") && try(strings.TrimSpace(token)) {
			return true, true, nil
		}
	}
	n := 0
	for _, field := range r.Values("Cookie") {
		for pair := range strings.SplitSeq(field, ";") {
			token, ok := viewerCookieValue(pair)
			if !ok {
				continue
			}
			if n++; n > maxCookies {
				return false, false, err
			}
			if try(token) {
				return true, false, nil
			}
		}
	}
	return false, false, err
}

// exchange gives a cookie for the token of an address.
func (c *viewers) exchange(r *Request, token, rest string) (*Redirect, error) {
	claims, err := c.parse(token)
	if err != nil {
		return nil, err
	}
	if claims.Once {
		if r.Method == "HEAD" {
			return nil, errViewerInvalid // a look at the link must not use it up
		}
		if !c.use(claims) {
			return nil, errors.New("the token was used before")
		}
		v := Viewer{Name: claims.Subject, Expires: claims.ExpiresAt.Time}
		if token, err = MintViewer(c.keys[0], c.id, v); err != nil {
			return nil, errViewerInvalid
		}
	}
	name, secure := viewerCookie, ""
	if r.Secure {
		secure = "; Secure"
		if r.Path == "/" {
			name = viewerHostCookie
		}
	}
	age := max(1, int(time.Until(claims.ExpiresAt.Time).Seconds()))
	return &Redirect{
		Location: rest,
		Cookie:   fmt.Sprintf("%s=%s; Path=%s; Max-Age=%d; HttpOnly; SameSite=Lax%s", name, token, r.Path, age, secure),
	}, nil
}

// use reports whether a token for one use has not been used.
func (c *viewers) use(claims *viewerClaims) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if _, ok := c.used[claims.ID]; ok || claims.ID == "" {
		return false
	}
	if len(c.used) >= maxUsed {
		for id, end := range c.used {
			if !now.Before(end) {
				delete(c.used, id)
			}
		}
		if len(c.used) >= maxUsed {
			return false // to forget one would let it be used again
		}
	}
	c.used[claims.ID] = claims.ExpiresAt.Add(viewerLeeway)
	return true
}

// cutParameter takes the first viewer token out of the query of a target in
// origin-form, and returns the rest as a Location that leads to the same host.
func cutParameter(target string) (token, rest string, ok bool) {
	path, query, _ := strings.Cut(target, "?")
	if !strings.Contains(query, ViewerParameter) {
		return "", "", false
	}
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if name != ViewerParameter {
			kept = append(kept, pair)
			continue
		}
		if !ok {
			token, ok = value, true
		}
	}
	if !ok {
		return "", "", false
	}
	rest = "?" + strings.Join(kept, "&")
	if len(path) > 1 && (path[1] == '/' || path[1] == '\\') {
		return token, rest, true // as a path it would name another host
	}
	return token, path + strings.TrimSuffix(rest, "?"), true
}

// viewerCookieValue returns the token in a pair of a Cookie field.
func viewerCookieValue(pair string) (token string, ok bool) {
	name, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
	if name != viewerCookie && name != viewerHostCookie {
		return "", false
	}
	return value, true
}

// StripCookies appends the value of a Cookie field to dst without the pairs that
// hold viewer tokens.
func StripCookies(dst, value []byte) []byte {
	start := len(dst)
	for pair := range strings.SplitSeq(string(value), ";") {
		if _, ok := viewerCookieValue(pair); ok {
			continue
		}
		if pair = strings.Trim(pair, " \t"); pair == "" {
			continue
		}
		if len(dst) > start {
			dst = append(dst, "; "...)
		}
		dst = append(dst, pair...)
	}
	return dst
}
