package auth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/auth"
)

// An answerer answers for a URL, in a synctest bubble.
type answerer struct {
	mu     sync.Mutex
	asked  []time.Time
	answer func() (*http.Response, error)
}

func (f *answerer) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, time.Now())
	resp, err := f.answer()
	if resp != nil {
		resp.Request = r
	}
	return resp, err
}

func (f *answerer) set(answer func() (*http.Response, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *answerer) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

func ok(body []byte) func() (*http.Response, error) { return status(200, body, nil) }

func status(code int, body []byte, header http.Header) func() (*http.Response, error) {
	return func() (*http.Response, error) {
		return &http.Response{StatusCode: code, Body: io.NopCloser(bytes.NewReader(body)), Header: header, ProtoMajor: 1, ProtoMinor: 1}, nil
	}
}

func urlKeys(t testing.TB, f http.RoundTripper) *auth.Authenticator {
	t.Helper()
	k, err := auth.NewKeySet(auth.KeySetOptions{Source: "https://issuer.test/jwks?key=hidden", Issuer: issuer, Audience: audience, Client: &http.Client{Transport: f}})
	if err != nil {
		t.Fatal(err)
	}
	return authenticator(t, auth.Options{Keys: k})
}

// The keys of a URL are fetched at the start, now and then, and when a token
// has a new kid, but never more often than the limit.
func TestKeysOfURLAreRotated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old, next := newSigner(t, "ES256", "old"), newSigner(t, "ES256", "new")
		f := &answerer{answer: ok(keySet(t, old.jwk(t)))}
		a := urlKeys(t, f)
		running(t, a)
		check(t, a, auth.Claim{Token: old.token(t, nil)}, "")
		if n := f.count(); n != 1 {
			t.Errorf("asked %d times, want once", n)
		}

		// At once after the last look a strange kid is refused without one.
		check(t, a, auth.Claim{Token: next.token(t, nil)}, auth.InvalidCredential)
		time.Sleep(31 * time.Second)
		f.set(ok(keySet(t, old.jwk(t), next.jwk(t))))
		check(t, a, auth.Claim{Token: next.token(t, nil)}, "") // waits for a look
		if n := f.count(); n != 2 {
			t.Errorf("asked %d times, want twice", n)
		}

		// Whoever makes up kids causes a look each 30 s, and no more.
		before := f.count()
		for i := range 300 {
			made := newSigner(t, "EdDSA", fmt.Sprint("made-up-", i))
			check(t, a, auth.Claim{Token: made.token(t, nil)}, auth.InvalidCredential)
			time.Sleep(time.Second)
		}
		if n := f.count() - before; n > 11 {
			t.Errorf("asked %d times in 300 s, want 10", n)
		}

		// Nobody asks: it looks by itself.
		f.set(ok(keySet(t, next.jwk(t))))
		time.Sleep(11 * time.Minute)
		check(t, a, auth.Claim{Token: old.token(t, nil)}, auth.InvalidCredential)
		check(t, a, auth.Claim{Token: next.token(t, nil)}, "")
	})
}

// When the URL does not answer, or not well, the keys stay in force for a day.
func TestStaleKeys(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func() (*http.Response, error){
		"unreachable": func() (*http.Response, error) { return nil, errors.New("no route") },
		"500":         status(500, nil, nil),
		"no content":  ok(nil),
		"malformed":   ok([]byte("<html>")),
		"empty set":   ok([]byte(`{"keys":[]}`)),
		"symmetric":   ok([]byte(`{"keys":[{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAA"}]}`)),
		"too large":   ok(bytes.Repeat([]byte(" "), 1<<20)),
		"redirect":    status(302, nil, http.Header{"Location": {"http://127.0.0.1/jwks"}}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSigner(t, "EdDSA", "k")
				f := &answerer{answer: ok(keySet(t, s.jwk(t)))}
				a := urlKeys(t, f)
				running(t, a)
				long := m{"exp": time.Now().Add(100 * time.Hour).Unix()}
				i := check(t, a, auth.Claim{Token: s.token(t, long)}, "")
				f.set(answer)
				time.Sleep(23 * time.Hour)
				check(t, a, auth.Claim{Token: s.token(t, long)}, "")
				time.Sleep(2 * time.Hour)
				check(t, a, auth.Claim{Token: s.token(t, long)}, auth.Busy)
				if _, err := a.Recheck(i); err != nil {
					t.Errorf("Recheck: %v: that nobody answers must not end sessions", err)
				}
				f.set(ok(keySet(t, s.jwk(t))))
				time.Sleep(time.Minute)
				check(t, a, auth.Claim{Token: s.token(t, long)}, "")
			})
		})
	}
}

// A URL that hangs keeps few tokens waiting, and those not for long.
func TestHangingURL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k, err := auth.NewKeySet(auth.KeySetOptions{Source: "https://issuer.test/jwks", Issuer: issuer, Audience: audience,
			Client: &http.Client{Transport: hanging{}}})
		if err != nil {
			t.Fatal(err)
		}
		a := authenticator(t, auth.Options{Keys: k})
		running(t, a)
		tok := newSigner(t, "EdDSA", "k").token(t, nil)
		began := time.Now()
		var wg sync.WaitGroup
		var mu sync.Mutex
		atOnce := 0
		for range 100 {
			wg.Go(func() {
				check(t, a, auth.Claim{Token: tok}, auth.Busy)
				if time.Since(began) == 0 {
					mu.Lock()
					atOnce++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %v, want at most 10 s", took)
		}
		if atOnce < 80 {
			t.Errorf("%d of 100 were answered at once, want all but a few", atOnce)
		}
		// One whose agent has gone does not wait.
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		began = time.Now()
		if _, err := a.Authenticate(ctx, auth.Claim{Token: tok}); !isCode(err, auth.Busy) || time.Since(began) > time.Second {
			t.Errorf("got %v after %v, want code %s within the second", err, time.Since(began), auth.Busy)
		}
	})
}

type hanging struct{}

func (hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// The default client verifies who answers.
func TestKeysOfUnknownAuthority(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "EdDSA", "k")
	serve := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(keySet(t, s.jwk(t))) })
	secure, plain := httptest.NewUnstartedServer(serve), httptest.NewServer(serve)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	defer plain.Close()
	for _, tt := range []struct {
		url    string
		client *http.Client
		want   auth.Code
	}{
		{secure.URL, nil, auth.Busy}, // not trusted
		{secure.URL, secure.Client(), ""},
		{plain.URL, nil, ""}, // loopback
	} {
		k, err := auth.NewKeySet(auth.KeySetOptions{Source: tt.url, Issuer: issuer, Audience: audience, Client: tt.client})
		if err != nil {
			t.Fatal(err)
		}
		a := authenticator(t, auth.Options{Keys: k})
		running(t, a)
		check(t, a, auth.Claim{Token: s.token(t, nil)}, tt.want)
	}
	secure.Client().CloseIdleConnections()
}
