package webhook

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxSeen bounds the requests that are remembered.
const maxSeen = 1 << 16

// seen remembers requests for as long as their time is good. The zero seen is
// ready to use.
type seen struct {
	mu    sync.Mutex // guards the fields below
	until map[[sha256.Size]byte]time.Time
	swept time.Time
}

// add notes a request that is good until then. The error is an *Error if it has
// come before, and errBusy if no more can be remembered.
func (s *seen) add(digest [sha256.Size]byte, now, until time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end, ok := s.until[digest]; ok && !now.After(end) {
		return &Error{Replayed, "it has come before"}
	}
	if s.until == nil {
		s.until = make(map[[sha256.Size]byte]time.Time)
	}
	if len(s.until) >= maxSeen && now.Sub(s.swept) >= time.Second {
		s.swept = now
		for d, end := range s.until {
			if now.After(end) {
				delete(s.until, d)
			}
		}
	}
	if len(s.until) >= maxSeen {
		return errBusy // to forget one would let it come again
	}
	s.until[digest] = until
	return nil
}
