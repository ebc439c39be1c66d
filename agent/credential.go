package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"adit/dialect/native"
	"adit/internal/backoff"
)

const (
	refreshTimeout = 15 * time.Second
	refreshMin     = time.Second // between attempts to get or to hand over a new credential
	refreshMax     = 30 * time.Second

	earliest = 5 * time.Minute // before its end that a token is replaced
	latest   = time.Second
)

// Expiry returns when a token expires, as far as it says so itself: a JWT does
// in its claim exp (RFC 7519, section 4.1.4). Nothing of it is checked.
func Expiry(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Exp *float64 `json:"exp"`
	}
	if json.Unmarshal(b, &claims) != nil || claims.Exp == nil || *claims.Exp < 0 || *claims.Exp > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(*claims.Exp), 0), true
}

// RefreshAt returns when a token that is had now, and expires at exp, is to be
// replaced: a fifth of its time before its end, but between 1 s and 5 minutes.
func RefreshAt(now, exp time.Time) time.Time {
	return exp.Add(-min(max(exp.Sub(now)/5, latest), earliest))
}

// A shownToken asks for the credential of a session and its carriers, and
// remembers the first: the session lives on it.
type shownToken struct {
	token func() (string, error)
	mu    sync.Mutex // guards the fields below
	first string
	asked bool
}

func (s *shownToken) next() (string, error) {
	token, err := s.token()
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked {
		s.first, s.asked = token, true
	}
	return token, nil
}

// keepCredential hands the session each new credential until it has ended. last
// is the one that it began with.
func (a *Agent) keepCredential(s *native.Session, last string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { // ends with the session, which is always closed
		<-s.Done()
		cancel()
	})
	if a.opts.NextCertificate != nil {
		wg.Go(func() { a.keepCertificate(ctx, s) })
	}
	if a.opts.Token == nil {
		<-ctx.Done()
		return
	}
	next := a.opts.NextToken
	if next == nil {
		next = a.beforeExpiry
	}
	b := backoff.Backoff{Min: refreshMin, Max: refreshMax}
	for ctx.Err() == nil {
		token, err := next(ctx, last)
		if err == nil {
			err = a.refresh(ctx, s, token)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			last = token
			b.Reset()
			a.log.Info("credential refreshed")
			continue
		}
		a.log.Warn("credential not refreshed", "err", err)
		if b.Wait(ctx) != nil {
			return
		}
	}
}

func (a *Agent) refresh(ctx context.Context, s *native.Session, token string) error {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	return s.Refresh(ctx, token)
}

// errNoOther is why a credential that is about to expire is not replaced.
var errNoOther = errors.New("the credential is about to expire, and there is no other one yet")

// beforeExpiry is the default of Options.NextToken.
func (a *Agent) beforeExpiry(ctx context.Context, last string) (string, error) {
	exp, ok := Expiry(last)
	if !ok {
		<-ctx.Done()
		return "", ctx.Err()
	}
	due := time.NewTimer(max(time.Until(RefreshAt(time.Now(), exp)), refreshMin)) // clocks differ
	defer due.Stop()
	select {
	case <-due.C:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	b := backoff.Backoff{Min: refreshMin, Max: refreshMax}
	for warned := false; ; {
		token, err := a.opts.Token()
		if err == nil && token != last {
			return token, nil
		}
		if err == nil {
			err = errNoOther
		}
		if !warned {
			warned = true
			a.log.Warn("credential not renewed", "err", err, "expires", exp)
		}
		if err := b.Wait(ctx); err != nil {
			return "", err
		}
	}
}

// keepCertificate gives the session a new carrier each time that there is
// another certificate to show.
func (a *Agent) keepCertificate(ctx context.Context, s *native.Session) {
	for {
		if err := a.opts.NextCertificate(ctx); err != nil {
			if ctx.Err() == nil {
				a.log.Warn("certificate not renewed", "err", err)
			}
			return
		}
		s.Renew()
		a.log.Info("certificate renewed")
	}
}
