package policy

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"
)

// maxVerified bounds the proofs that a verified set remembers.
const maxVerified = 1024

// A proof is a digest of what a visitor has shown, from which that cannot be
// had back.
type proof [sha256.Size]byte

// A verified set remembers for some time what has been found good, so that it
// need not be looked at again with each request.
type verified struct {
	key [32]byte // of the digests; random

	mu    sync.RWMutex // guards until
	until map[proof]time.Time
}

func newVerified() *verified {
	v := &verified{until: make(map[proof]time.Time)}
	rand.Read(v.key[:])
	return v
}

// digest returns the proof of parts; none of them can pass for another by
// where it ends.
func (v *verified) digest(parts ...[]byte) (p proof) {
	h := hmac.New(sha256.New, v.key[:])
	for _, part := range parts {
		n := len(part)
		h.Write([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		h.Write(part)
	}
	h.Sum(p[:0])
	return p
}

// has reports whether p was found good, and still is.
func (v *verified) has(p proof) bool {
	v.mu.RLock()
	until, ok := v.until[p]
	v.mu.RUnlock()
	return ok && time.Now().Before(until)
}

// add remembers p until then.
func (v *verified) add(p proof, until time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.until) >= maxVerified {
		now := time.Now()
		for old, end := range v.until {
			if !now.Before(end) {
				delete(v.until, old)
			}
		}
		for old := range v.until {
			if len(v.until) < maxVerified {
				break
			}
			delete(v.until, old) // any: it is looked at again
		}
	}
	v.until[p] = until
}
