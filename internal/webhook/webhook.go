// Package webhook checks that requests were signed by whoever shares a secret
// with us, in the forms that are in use: an HMAC over the body as it was sent,
// mostly with a time.
//
//	v, err := webhook.New(webhook.Options{Scheme: "github", Secrets: secrets})
//	...
//	handler = v.Handler(handler)
//
// Several secrets may be valid at a time, so that they can be replaced.
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Options configures a Verifier. Scheme and Secrets are required.
type Options struct {
	// Scheme is how requests are signed: "github", "stripe", "slack", "svix",
	// "standard" (Standard Webhooks, which is svix by other names), "shopify",
	// or "hmac" with parameters; see New.
	Scheme string

	// Secrets are those that may have signed, one to ten.
	Secrets []string

	// Tolerance is how far the time of a request may be from ours, where there
	// is one; 0 means 5 min. Within it the same request is not taken twice.
	Tolerance time.Duration

	// MaxBody bounds the body of a request in bytes: it is in memory until the
	// signature is checked. 0 means 25 MiB.
	MaxBody int64
}

const (
	defaultTolerance = 5 * time.Minute
	defaultMaxBody   = 25 << 20 // what GitHub sends at most
	maxTolerance     = time.Hour
	maxSecrets       = 10
	maxSignatures    = 16 // in one request
	maxField         = 4096
)

// A Code says why a request was refused. It is one of docs/errors.md.
type Code string

const (
	Missing  Code = "signature-missing"  // there is none, or no time with it
	Invalid  Code = "signature-invalid"  // no secret of ours made it
	Expired  Code = "signature-expired"  // its time is too far from ours
	Replayed Code = "signature-replayed" // it has come before
)

// An Error is why a request was refused. It holds nothing of a secret.
type Error struct {
	Code   Code
	Reason string // for logs
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Reason }

// A Verifier checks signatures. Its methods are safe for concurrent use.
type Verifier struct {
	scheme    scheme
	keys      [][]byte
	tolerance time.Duration
	maxBody   int64
	seen      seen
	memory    memory
}

// A scheme is how requests are signed.
type scheme struct {
	// find returns what a request says of its signature.
	find func(http.Header) (claim, error)
	hash func() hash.Hash
	// key turns a secret into the key of the HMAC; nil leaves it as it is.
	key func(string) ([]byte, error)
}

// A claim is what a request says: that one of signatures is the HMAC of prefix
// and the body.
type claim struct {
	signatures [][]byte
	prefix     string
	at         time.Time // zero if there is none
}

// New returns a verifier. Options.Scheme may have parameters if it is hmac:
//
//	hmac:header=X-Signature,hash=sha256,encoding=hex,prefix=sha256=
//
// The hash is sha256 (the default), sha1 or sha512; the encoding hex (the
// default) or base64; prefix is what stands before the signature.
func New(opts Options) (*Verifier, error) {
	s, err := parseScheme(opts.Scheme)
	if err != nil {
		return nil, err
	}
	v := &Verifier{scheme: s, tolerance: opts.Tolerance, maxBody: opts.MaxBody}
	switch {
	case v.tolerance == 0:
		v.tolerance = defaultTolerance
	case v.tolerance < time.Second || v.tolerance > maxTolerance:
		return nil, fmt.Errorf("tolerance %v: 1s to %v are allowed", v.tolerance, maxTolerance)
	}
	if v.maxBody <= 0 {
		v.maxBody = defaultMaxBody
	}
	if n := len(opts.Secrets); n < 1 || n > maxSecrets {
		return nil, fmt.Errorf("%d secrets of webhooks: 1 to %d are allowed", n, maxSecrets)
	}
	for i, secret := range opts.Secrets {
		key := []byte(secret)
		if s.key != nil {
			key, err = s.key(secret)
		}
		if err == nil && len(key) < 8 {
			err = fmt.Errorf("has %d bytes: at least 8 are needed", len(key))
		}
		if err != nil {
			return nil, fmt.Errorf("secret %d of webhooks: %w", i+1, err)
		}
		v.keys = append(v.keys, key)
	}
	return v, nil
}

// Verify checks the signature of a request with that header and body, at that
// time. The error is an *Error.
func (v *Verifier) Verify(h http.Header, body []byte, now time.Time) error {
	c, err := v.scheme.find(h)
	if err != nil {
		return err
	}
	good := 0
	for _, key := range v.keys { // all of them, whichever it is
		mac := hmac.New(v.scheme.hash, key)
		mac.Write([]byte(c.prefix))
		mac.Write(body)
		sum := mac.Sum(nil)
		for _, s := range c.signatures {
			if hmac.Equal(s, sum) {
				good++
			}
		}
	}
	if good == 0 {
		return &Error{Invalid, "no secret has made the signature"}
	}
	if c.at.IsZero() {
		return nil
	}
	// Only who has the secret learns about the time.
	if d := now.Sub(c.at); d > v.tolerance || d < -v.tolerance {
		return &Error{Expired, fmt.Sprintf("it was signed %v ago", d.Round(time.Second))}
	}
	digest := sha256.New()
	digest.Write([]byte(c.prefix))
	digest.Write(body)
	return v.seen.add([sha256.Size]byte(digest.Sum(nil)), now, c.at.Add(v.tolerance))
}

// one returns the value of a field that must be there exactly once: of two
// values, we could check one and the upstream read the other.
func one(h http.Header, name string) (string, error) {
	switch values := h.Values(name); {
	case len(values) == 0 || len(values) == 1 && values[0] == "":
		return "", &Error{Missing, "no " + name}
	case len(values) > 1:
		return "", &Error{Invalid, name + " stands more than once"}
	case len(values[0]) > maxField:
		return "", &Error{Invalid, name + " is too long"}
	default:
		return values[0], nil
	}
}

// unixTime parses seconds since 1970.
func unixTime(s string) (time.Time, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 || n > 1<<40 || s[0] == '+' {
		return time.Time{}, &Error{Invalid, "its time is no number of seconds"}
	}
	return time.Unix(n, 0), nil
}

// whsec decodes the secrets of Svix and Standard Webhooks.
func whsec(secret string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return nil, errors.New("is not whsec_ and base64")
	}
	return b, nil
}
