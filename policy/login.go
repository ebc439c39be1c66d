package policy

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

const (
	hashCost    = 10 // of the hashes that NewLogin makes: about 50 ms
	maxHashCost = 12 // the server has to pay for each attempt
	maxUser     = 255
	maxPassword = 72 // bytes; bcrypt looks at no more
	redacted    = "[redacted]"
)

// A Login is a user with the bcrypt hash of the password. However it is printed
// it shows as the user alone; MarshalText has the hash.
type Login struct{ user, hash string }

// NewLogin hashes a password of 1 to 72 bytes, which takes some time.
func NewLogin(user, password string) (Login, error) {
	if password == "" || len(password) > maxPassword {
		return Login{}, fmt.Errorf("the password of %q has %d bytes: it takes 1 to %d", user, len(password), maxPassword)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), hashCost)
	if err != nil {
		return Login{}, fmt.Errorf("hash the password of %q: %w", user, err)
	}
	l := Login{user, string(hash)}
	return l, l.check()
}

// ParseLogin parses a line as htpasswd -B writes it: "user:$2y$…".
func ParseLogin(line string) (Login, error) {
	user, hash, ok := strings.Cut(line, ":")
	if !ok {
		return Login{}, errors.New("a login without ':': want user:$2y$…, as htpasswd -B makes it")
	}
	l := Login{user, hash}
	return l, l.check()
}

func (l Login) check() error {
	switch {
	case l.user == "" || len(l.user) > maxUser:
		return fmt.Errorf("user %.40q has %d bytes: it takes 1 to %d", l.user, len(l.user), maxUser)
	case !utf8.ValidString(l.user) || strings.ContainsFunc(l.user, unsuitable):
		return fmt.Errorf("user %q: only printable characters are allowed, and no ':'", l.user)
	}
	cost, err := bcrypt.Cost([]byte(l.hash))
	switch {
	case err != nil || len(l.hash) != 60:
		return fmt.Errorf("the hash of user %q is not one of bcrypt, which begins with $2a$, $2b$ or $2y$ and has 60 characters: use htpasswd -B", l.user)
	case cost > maxHashCost:
		return fmt.Errorf("the hash of user %q has the cost %d: at most %d is allowed", l.user, cost, maxHashCost)
	case strings.ContainsFunc(l.hash[7:], notBcrypt64):
		return fmt.Errorf("the hash of user %q is damaged: it has a character that bcrypt does not use", l.user)
	}
	return nil
}

func unsuitable(r rune) bool { return r == ':' || !unicode.IsPrint(r) }

func notBcrypt64(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '/')
}

// User returns the user's name.
func (l Login) User() string { return l.user }

// Format implements fmt.Formatter, for every verb.
func (l Login) Format(f fmt.State, _ rune) { io.WriteString(f, l.user+":"+redacted) }

// LogValue implements slog.LogValuer.
func (l Login) LogValue() slog.Value { return slog.StringValue(l.user + ":" + redacted) }

// MarshalText implements encoding.TextMarshaler; the text is what ParseLogin
// takes.
func (l Login) MarshalText() ([]byte, error) { return []byte(l.user + ":" + l.hash), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Login) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLogin(string(text))
	return err
}

// How long a login that was found good is good without another look, and how
// many wrong ones an address may try.
const loginRemembered = 10 * time.Minute

var wrongLogins = Rate{Count: 10, Per: time.Minute, Burst: 10}

// hashing is what all policies of the process share: it takes long, and must
// not take the processors from everything else.
var hashing = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))

// hashingWait is how long a visitor waits for its turn.
const hashingWait = 5 * time.Second

// logins checks users and passwords.
type logins struct {
	users     [][sha256.Size]byte
	hashes    [][]byte
	costs     []int
	cost      int // the highest
	verified  *verified
	wrong     *limiter
	challenge string
}

// newLogins returns nil if there are none.
func newLogins(list []Login, realm string) *logins {
	if len(list) == 0 {
		return nil
	}
	c := &logins{
		verified:  newVerified(),
		wrong:     newLimiter(wrongLogins),
		challenge: `Basic realm="` + quotable(realm) + `", charset="UTF-8"`,
	}
	for _, l := range list {
		cost, err := bcrypt.Cost([]byte(l.hash))
		if err != nil {
			panic("policy: " + err.Error()) // it was checked
		}
		c.users = append(c.users, sha256.Sum256([]byte(l.user)))
		c.hashes = append(c.hashes, []byte(l.hash))
		c.costs = append(c.costs, cost)
		c.cost = max(c.cost, cost)
	}
	return c
}

// quotable makes text fit for a quoted-string.
func quotable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '_'
		}
		return r
	}, s)
}

// admit looks at the Authorization fields of a request.
func (c *logins) admit(ctx context.Context, visitor netip.Addr, fields []string) error {
	user, password, ok := parseBasic(fields)
	if !ok {
		return &Denied{Code: CodeLogin, Challenge: c.challenge, reason: "no login"}
	}
	p := c.verified.digest(user, password)
	if c.verified.has(p) {
		return nil
	}
	key := visitorKey(visitor)
	if wait := c.wrong.take(key); wait > 0 {
		return &Denied{Code: CodeRate, RetryAfter: wait, reason: "too many wrong logins"}
	}
	good, err := c.compare(ctx, p, user, password)
	switch {
	case err != nil:
		c.wrong.giveBack(key)
		return err
	case !good:
		return &Denied{Code: CodeLogin, Challenge: c.challenge, reason: "wrong user or password"}
	}
	c.wrong.giveBack(key)
	c.verified.add(p, time.Now().Add(loginRemembered))
	return nil
}

// compare hashes the password, when it is its turn. A wrong user takes as long
// as a wrong password.
func (c *logins) compare(ctx context.Context, p proof, user, password []byte) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, hashingWait)
	defer cancel()
	select {
	case hashing <- struct{}{}:
	case <-ctx.Done():
		return false, &Denied{Code: CodeRate, RetryAfter: time.Second, reason: "too many logins at once"}
	}
	defer func() { <-hashing }()
	if c.verified.has(p) { // another request of the same visitor was faster
		return true, nil
	}
	at, sum := -1, sha256.Sum256(user)
	for i := range c.users {
		at = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(sum[:], c.users[i][:]), i, at)
	}
	known := at >= 0
	if !known {
		at = 0
	}
	long := len(password) > maxPassword
	err := bcrypt.CompareHashAndPassword(c.hashes[at], password[:min(len(password), maxPassword)])
	if known && !long && err == nil {
		return true, nil
	}
	// With what the user's own hash has cost, these make up the highest cost.
	for cost := c.costs[at]; cost < c.cost; cost++ {
		bcrypt.CompareHashAndPassword(withCost(c.hashes[at], cost), password[:min(len(password), maxPassword)])
	}
	return false, nil
}

// withCost returns a hash like h that takes another time to compare.
func withCost(h []byte, cost int) []byte {
	return fmt.Appendf(nil, "%s%02d%s", h[:4], cost, h[6:])
}

// parseBasic returns the user and the password of exactly one field (RFC 7617,
// section 2).
func parseBasic(fields []string) (user, password []byte, ok bool) {
	if len(fields) != 1 {
		return nil, nil, false
	}
	scheme, value, _ := strings.Cut(fields[0], " ")
	if !strings.EqualFold(scheme, "Basic") {
		return nil, nil, false
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
	if err != nil {
		return nil, nil, false
	}
	for i, c := range b {
		if c == ':' {
			return b[:i], b[i+1:], true
		}
	}
	return nil, nil, false
}
