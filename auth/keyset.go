package auth

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	keysEvery    = 10 * time.Minute // between two looks at a URL
	keysAgain    = 30 * time.Second // at least between two looks; after failures it grows up to keysEvery
	keysPatience = 10 * time.Second // for one answer
	keysStale    = 24 * time.Hour   // for which keys are good without an answer
	maxKeyWaits  = 16               // tokens that wait for an answer at a time
	maxTried     = 4                // keys that a token is tried with: each costs time, whoever sent it
)

// errNoKeys is what a token hears that cannot be looked at now.
var errNoKeys = &Error{Busy, "the keys of tokens cannot be had now"}

// A KeySet are the public keys of a JWK set (RFC 7517), from a file or a URL,
// that verify the tokens of one issuer. Those of a URL are fetched every 10
// minutes, and within that when a token names a key that is not among them,
// but not more often than every 30 s. If a look fails the keys stay in force,
// for 24 h at most. A file is read again when it has changed.
type KeySet struct {
	issuer, audience string
	url              *url.URL
	file             *watched[[]publicKey] // nil for a URL
	client           *http.Client
	now              chan struct{} // asks for a look

	mu      sync.Mutex // guards the fields below
	keys    []publicKey
	changes int           // of keys
	got     time.Time     // when keys was had
	looked  time.Time     // when the last look began
	looking chan struct{} // closed at the end of the look that is going on or asked for; nil if none is
	waiting int           // tokens that wait for that
}

// KeySetOptions configures a KeySet. All fields but Client are required.
type KeySetOptions struct {
	// Source is the path of a file or a URL: https, or http on loopback.
	Source string

	// Issuer and Audience have to be a token's "iss" and among its "aud":
	// whoever signs for many signs for others too.
	Issuer, Audience string

	// Client fetches URLs; nil is one that trusts the system's authorities.
	Client *http.Client
}

// NewKeySet returns the key set of a file, which it reads, or of a URL, which
// it does not fetch yet.
func NewKeySet(opts KeySetOptions) (*KeySet, error) {
	if opts.Issuer == "" || opts.Audience == "" {
		return nil, errors.New("key set: it takes an issuer and an audience, since whoever has the keys may sign for others too")
	}
	k := &KeySet{issuer: opts.Issuer, audience: opts.Audience, client: opts.Client, now: make(chan struct{}, 1)}
	if !strings.Contains(opts.Source, "://") {
		file, err := watch(opts.Source, loadKeySet)
		if err != nil {
			return nil, err
		}
		k.file = file
		return k, nil
	}
	u, err := url.Parse(opts.Source)
	switch {
	case err != nil || u.Hostname() == "":
		return nil, errors.New("key set: the URL is malformed: want https://host/path")
	case u.User != nil || u.Fragment != "":
		return nil, errors.New("key set: the URL must not contain a user, a password or '#'")
	case u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())):
		return nil, fmt.Errorf("key set: the URL has the scheme %q: want https, or http on loopback, since whoever answers decides who enters", u.Scheme)
	}
	k.url = u
	if k.client == nil {
		k.client = &http.Client{Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true, // they are minutes apart
			MaxResponseHeaderBytes: 64 << 10,
		}}
	}
	client := *k.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error {
		return errors.New("the answer leads elsewhere: want the URL itself")
	}
	k.client = &client
	return k, nil
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func loadKeySet(path string) ([]publicKey, error) {
	b, err := readFile(path, maxJWKS, checkUnwritable)
	if err != nil {
		return nil, fmt.Errorf("key set %s: %w", path, err)
	}
	keys, err := parseKeySet(b)
	if err != nil {
		return nil, fmt.Errorf("key set %s: %w", path, err)
	}
	return keys, nil
}

// find returns the keys that verify alg and go by kid, or by any name if kid
// is empty. If it knows none it may wait for a look; ctx bounds that.
func (k *KeySet) find(ctx context.Context, alg, kid string) ([]signingKey, error) {
	if len(kid) > maxKeyID {
		return nil, errInvalid
	}
	if k.file != nil {
		return choose(k.file.get(), alg, kid), nil
	}
	for first := true; ; first = false {
		k.mu.Lock()
		keys, fresh := k.keys, time.Since(k.got) < keysStale
		found := choose(keys, alg, kid)
		var look <-chan struct{}
		var err error
		if (len(found) == 0 || !fresh) && first {
			look, err = k.askLocked()
		}
		k.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case look != nil:
			if err := k.wait(ctx, look); err != nil {
				return nil, err
			}
		case !fresh:
			return nil, errNoKeys
		default:
			return found, nil
		}
	}
}

// askLocked asks for a look, and returns what the caller has to wait for with
// k.wait: nothing if it is too soon for a look.
func (k *KeySet) askLocked() (<-chan struct{}, error) {
	if k.looking == nil {
		if !k.looked.IsZero() && time.Since(k.looked) < keysAgain {
			return nil, nil
		}
		k.looking = make(chan struct{})
		select {
		case k.now <- struct{}{}:
		default: // was asked for already
		}
	}
	if k.waiting >= maxKeyWaits {
		return nil, errNoKeys
	}
	k.waiting++
	return k.looking, nil
}

// look asks for a look, unless it is too soon for one.
func (k *KeySet) look() {
	if k.url == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if wait, _ := k.askLocked(); wait != nil {
		k.waiting-- // nobody does
	}
}

func (k *KeySet) wait(ctx context.Context, done <-chan struct{}) error {
	timer := time.NewTimer(keysPatience)
	defer timer.Stop()
	var err error
	select {
	case <-done:
	case <-timer.C:
		err = errNoKeys
	case <-ctx.Done():
		err = errNoKeys
	}
	k.mu.Lock()
	k.waiting--
	k.mu.Unlock()
	return err
}

// at returns a number that grows when the keys of a URL change.
func (k *KeySet) at() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changes
}

// has reports whether a key is in force still.
func (k *KeySet) has(sum [sha256.Size]byte) bool {
	var keys []publicKey
	if k.file != nil {
		keys = k.file.get()
	} else {
		k.mu.Lock()
		keys = k.keys
		k.mu.Unlock()
	}
	for _, key := range keys {
		if key.sum == sum {
			return true
		}
	}
	return false
}

// choose returns the keys for alg and kid. If there are too many to try it
// returns none: a token has to name one then.
func choose(keys []publicKey, alg, kid string) (found []signingKey) {
	for _, k := range keys {
		if k.alg == alg && (kid == "" || k.id == kid) {
			found = append(found, k.signingKey)
		}
	}
	if len(found) > maxTried {
		return nil
	}
	return found
}

// run looks at the URL until ctx ends.
func (k *KeySet) run(ctx context.Context, log *slog.Logger) {
	if k.url == nil {
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last string // error
	again := keysAgain
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-k.now:
		}
		k.mu.Lock()
		if k.looking == nil {
			k.looking = make(chan struct{})
		}
		k.looked = time.Now()
		k.mu.Unlock()
		keys, err := k.fetch(ctx)
		k.lookEnds(keys, err)
		next := keysEvery
		if err != nil {
			next, again = again, min(2*again, keysEvery)
			if err.Error() != last && ctx.Err() == nil {
				log.Error("keys of tokens not fetched", "host", k.url.Host, "err", err)
			}
			last = err.Error()
		} else {
			if last != "" {
				log.Info("keys of tokens fetched again", "host", k.url.Host)
			}
			last, again = "", keysAgain
		}
		timer.Reset(next)
	}
}

// lookEnds takes over what was fetched, and wakes those who wait for it.
func (k *KeySet) lookEnds(keys []publicKey, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		if !sameKeys(k.keys, keys) {
			k.changes++
		}
		k.keys, k.got = keys, time.Now()
	}
	if k.looking != nil {
		close(k.looking)
		k.looking = nil
	}
	select {
	case <-k.now: // was asked for while this look was going on
	default:
	}
}

func sameKeys(a, b []publicKey) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].sum != b[i].sum || a[i].id != b[i].id {
			return false
		}
	}
	return true
}

// fetch gets the keys from the URL. Its error does not repeat the URL, which
// may have something secret in its query.
func (k *KeySet) fetch(ctx context.Context) ([]publicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, keysPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url.String(), nil)
	if err != nil {
		return nil, errors.New("the URL is malformed")
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %d: want 200", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxJWKS+1))
	if err != nil {
		return nil, err
	}
	keys, err := parseKeySet(b)
	if err != nil {
		return nil, fmt.Errorf("the answer %w", err)
	}
	return keys, nil
}
