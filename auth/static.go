package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// A digest stands for a static token. A token is random and as long as its
// digest, so that a slow hash would add nothing.
type digest [sha256.Size]byte

func digestOf(token string) digest { return sha256.Sum256([]byte(token)) }

func (d digest) String() string { return digestPrefix + hex.EncodeToString(d[:]) }

func parseDigest(s string) (d digest, err error) {
	b, err := hex.DecodeString(strings.TrimPrefix(s, digestPrefix))
	if err != nil || len(b) != len(d) || !strings.HasPrefix(s, digestPrefix) {
		return d, fmt.Errorf("digest: want %s and %d hexadecimal digits", digestPrefix, 2*len(d))
	}
	return digest(b), nil
}

// StaticTokenID returns the ID of a static token, which it does not check, and
// reports whether s is like one.
func StaticTokenID(s string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		return "", false
	}
	id, random, ok := strings.Cut(rest, "_")
	return id, ok && id != "" && random != ""
}

// identify turns a static token into an identity.
func (t *Tokens) identify(token string) (*Identity, error) {
	id, ok := StaticTokenID(token)
	if !ok {
		return nil, errInvalid
	}
	st := t.static[id]
	if st == nil {
		return nil, errInvalid
	}
	// The ID is no secret; the digest is compared in constant time.
	sum := digestOf(token)
	if subtle.ConstantTimeCompare(sum[:], st.digest[:]) != 1 {
		return nil, errInvalid
	}
	i := &Identity{
		Subject: st.Subject,
		Expires: st.Expires,
		Scope:   st.Scope,
		Kind:    KindStatic,
		Token:   st.ID,
		proof:   proof{key: sum, issued: st.Created},
	}
	return i, t.checkStatic(i)
}

// checkStatic says why the static token of an identity is no longer accepted.
func (t *Tokens) checkStatic(i *Identity) error {
	st := t.static[i.Token]
	switch {
	case st == nil || st.digest != i.proof.key:
		return errInvalid
	case !st.Revoked.IsZero() || t.revoked(st.ID, st.Subject, st.Created):
		return errRevoked
	case !st.Expires.IsZero() && !time.Now().Before(st.Expires):
		return errExpired
	}
	return nil
}
