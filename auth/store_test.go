package auth_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/auth"
)

func webScope() auth.Scope { return auth.Scope{IDs: []string{"web"}} }

// create makes a static token of a store.
func create(t testing.TB, s *auth.Store, c auth.TokenClaims) (token, id string) {
	t.Helper()
	if c.Scope.IsZero() {
		c.Scope = webScope()
	}
	token, st, err := s.CreateStatic(c)
	if err != nil {
		t.Fatal(err)
	}
	return token, st.ID
}

// check compares what becomes of a claim with a code; none means that it is
// accepted.
func check(t testing.TB, a *auth.Authenticator, c auth.Claim, want auth.Code) *auth.Identity {
	t.Helper()
	id, err := a.Authenticate(t.Context(), c)
	var got auth.Code
	if ae, ok := errors.AsType[*auth.Error](err); ok {
		got = ae.Code
	} else if err != nil {
		t.Fatalf("got %v, want an *auth.Error", err)
	}
	if got != want {
		t.Errorf("got %v, want code %q", err, want)
	}
	return id
}

func TestStaticTokens(t *testing.T) {
	t.Parallel()
	store := auth.OpenStore(filepath.Join(t.TempDir(), "data"))
	scope := auth.Scope{IDs: []string{"web-*"}, Hostnames: []string{"*.example.com"}, Ports: []auth.PortRange{{2000, 2999}}}
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	token, id := create(t, store, auth.TokenClaims{Subject: "alice", Expires: expires, Scope: scope})
	other, otherID := create(t, store, auth.TokenClaims{Subject: "bob"})
	expired, _ := create(t, store, auth.TokenClaims{Subject: "bob", Expires: time.Now().Add(-time.Second)})
	a := authenticator(t, auth.Options{Store: store})

	i := check(t, a, auth.Claim{Token: token, ID: "web-1"}, "")
	if i.Subject != "alice" || i.Token != id || i.Kind != auth.KindStatic || !i.Expires.Equal(expires) ||
		!slices.Equal(i.Scope.IDs, scope.IDs) || !slices.Equal(i.Scope.Hostnames, scope.Hostnames) || !slices.Equal(i.Scope.Ports, scope.Ports) {
		t.Errorf("got %+v, want what the token was made with", i)
	}
	if i := check(t, a, auth.Claim{Token: other}, ""); !i.Expires.IsZero() {
		t.Errorf("got a token until %v, want for ever", i.Expires)
	}
	check(t, a, auth.Claim{Token: token, ID: "api"}, auth.Forbidden)
	check(t, a, auth.Claim{Token: expired}, auth.ExpiredCredential)
	for name, bad := range map[string]string{
		"other random part": token[:len(token)-1] + string(token[len(token)-1]^1),
		"longer":            token + "A",
		"shorter":           token[:len(token)-1],
		"other id":          strings.Replace(token, id, otherID, 1),
		"unknown id":        strings.Replace(token, id, "nobody", 1),
		"without id":        strings.Replace(token, id, "", 1),
		"id alone":          "adit_token_" + id,
		"prefix alone":      "adit_token_",
		"digest":            readDigest(t, store, id),
		"id and digest":     "adit_token_" + id + "_" + readDigest(t, store, id),
	} {
		t.Run(name, func(t *testing.T) { check(t, a, auth.Claim{Token: bad}, auth.InvalidCredential) })
	}
	check(t, authenticator(t, auth.Options{}), auth.Claim{Token: token}, auth.InvalidCredential)
	check(t, authenticator(t, auth.Options{Secrets: []auth.Secret{secret(t, rawOld)}}), auth.Claim{Token: token}, auth.InvalidCredential)
}

// readDigest returns what the store has of a token.
func readDigest(t *testing.T, s *auth.Store, id string) string {
	t.Helper()
	b, err := os.ReadFile(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Static []struct{ ID, Digest string }
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	for _, st := range file.Static {
		if st.ID == id {
			return strings.TrimPrefix(st.Digest, "sha256:")
		}
	}
	t.Fatalf("no token %s in the store", id)
	panic("unreachable")
}

func TestStoreHasNoToken(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	store := auth.OpenStore(dir)
	token, _ := create(t, store, auth.TokenClaims{Subject: "alice"})
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), token[strings.LastIndexByte(token, '_')+1:]) {
			t.Errorf("%s has the token", path)
		}
		if info, err := e.Info(); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %v, %v, want it for the owner alone", path, info.Mode(), err)
		}
	}
}

func TestCreateStaticRefuses(t *testing.T) {
	t.Parallel()
	store := auth.OpenStore(t.TempDir())
	for name, c := range map[string]auth.TokenClaims{
		"no scope":           {Subject: "a"},
		"no subject":         {Scope: webScope()},
		"reserved subject":   {Subject: "secret", Scope: webScope()},
		"certificate's":      {Subject: "cert:a", Scope: webScope()},
		"malformed scope":    {Subject: "a", Scope: auth.Scope{Hostnames: []string{"app.*"}}},
		"audience":           {Subject: "a", Scope: webScope(), Audience: "x"},
		"later":              {Subject: "a", Scope: webScope(), NotBefore: time.Now().Add(time.Hour)},
		"id that ends early": {Subject: "a", Scope: webScope(), ID: "a_b"},
	} {
		if token, _, err := store.CreateStatic(c); err == nil {
			t.Errorf("%s: got %q, want an error", name, token)
		}
	}
	if _, err := os.Stat(store.Path()); err == nil {
		t.Error("there is a token file, though nothing was created")
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	store := auth.OpenStore(t.TempDir())
	s := secret(t, rawOld)
	mint := func(id, subject string) string {
		tok, err := auth.Mint(s, auth.TokenClaims{ID: id, Subject: subject, Expires: time.Now().Add(time.Hour), Scope: webScope()})
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	nameless := token(m{"alg": "HS256"}, m{"sub": "carol", "exp": time.Now().Add(time.Hour).Unix(), "adit": m{"ids": []string{"web"}}}, hs256, rawOld)
	static, staticID := create(t, store, auth.TokenClaims{Subject: "alice"})
	bobs, _ := create(t, store, auth.TokenClaims{Subject: "bob"})
	one, two := mint("one", "alice"), mint("two", "alice")
	bobJWT := mint("three", "bob")

	open := func() *auth.Authenticator {
		return authenticator(t, auth.Options{Store: store, Secrets: []auth.Secret{s}})
	}
	for _, tok := range []string{static, bobs, one, two, bobJWT, nameless} {
		check(t, open(), auth.Claim{Token: tok}, "")
	}
	for _, r := range []struct {
		revoke auth.Revocation
		known  bool
	}{{auth.Revocation{ID: "one"}, false}, {auth.Revocation{ID: staticID}, true}, {auth.Revocation{Subject: "bob"}, true}, {auth.Revocation{Subject: "carol"}, false}} {
		if known, err := store.Revoke(r.revoke); err != nil || known != r.known {
			t.Errorf("Revoke(%+v): got %v, %v, want %v", r.revoke, known, err, r.known)
		}
	}
	for tok, want := range map[string]auth.Code{
		static: auth.RevokedCredential, bobs: auth.RevokedCredential, one: auth.RevokedCredential, bobJWT: auth.RevokedCredential,
		nameless: auth.RevokedCredential, two: "", rawOld: "",
	} {
		check(t, open(), auth.Claim{Token: tok}, want)
	}
	for name, r := range map[string]auth.Revocation{
		"nothing": {}, "both": {ID: "a", Subject: "b"}, "the secret": {Subject: "secret"}, "long": {ID: strings.Repeat("x", 256)},
	} {
		if _, err := store.Revoke(r); err == nil {
			t.Errorf("Revoke of %s: got no error", name)
		}
	}
	// Somebody who signs in another's name cannot be told from the subject
	// alone: the signature is looked at first.
	check(t, open(), auth.Claim{Token: token(m{"alg": "HS256"}, m{"sub": "bob", "jti": "one", "exp": int64(1) << 40}, hs256, rawOther)}, auth.InvalidCredential)
}

// What a holder gets after a revocation is good.
func TestRevokedHolderGetsNew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		store := auth.OpenStore(dir)
		s := secret(t, rawOld)
		if _, err := store.Revoke(auth.Revocation{Subject: "alice"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the bubble's clock
		tok, err := auth.Mint(s, auth.TokenClaims{Subject: "alice", Expires: time.Now().Add(time.Hour), Scope: webScope()})
		if err != nil {
			t.Fatal(err)
		}
		static, _ := create(t, store, auth.TokenClaims{Subject: "alice"})
		a := authenticator(t, auth.Options{Store: store, Secrets: []auth.Secret{s}})
		check(t, a, auth.Claim{Token: tok}, "")
		check(t, a, auth.Claim{Token: static}, "")
	})
}

func TestStoreForgets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		store := auth.OpenStore(dir)
		create(t, store, auth.TokenClaims{ID: "old", Subject: "a", Expires: time.Now().Add(time.Hour)})
		create(t, store, auth.TokenClaims{ID: "kept", Subject: "a"})
		for _, r := range []auth.Revocation{{ID: "gone", Until: time.Now().Add(time.Hour)}, {ID: "stays"}} {
			if _, err := store.Revoke(r); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(32 * 24 * time.Hour) // the bubble's clock
		create(t, store, auth.TokenClaims{ID: "new", Subject: "a"})
		tokens, err := store.Load()
		if err != nil {
			t.Fatal(err)
		}
		if len(tokens.Static) != 2 || len(tokens.Revoked) != 1 || tokens.Revoked[0].ID != "stays" {
			t.Errorf("got %+v and %+v, want kept and new, and stays", tokens.Static, tokens.Revoked)
		}
	})
}

// Several processes may change the store at once: nothing is lost.
func TestStoreIsShared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const n = 20
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			store := auth.OpenStore(dir)
			if _, _, err := store.CreateStatic(auth.TokenClaims{Subject: "a", Scope: webScope()}); err != nil {
				t.Error(err)
			}
			if _, err := store.Revoke(auth.Revocation{ID: auth.NewTokenID()}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tokens, err := auth.OpenStore(dir).Load()
	if err != nil || len(tokens.Static) != n || len(tokens.Revoked) != n {
		t.Errorf("got %d tokens and %d revocations, %v, want %d of each", len(tokens.Static), len(tokens.Revoked), err, n)
	}
}

func TestStoreRefusesFiles(t *testing.T) {
	t.Parallel()
	good := `{"version":1,"static":[{"id":"a","digest":"sha256:` + strings.Repeat("0", 64) + `","subject":"s","created":"2026-01-01T00:00:00Z","grants":{"ids":["a"]}}]}`
	for _, tt := range []struct {
		name, content, want string
		mode                os.FileMode
	}{
		{"good", good, "", 0o600},
		{"empty list", `{"version":1}`, "", 0o600},
		{"empty", ``, "malformed", 0o600},
		{"no JSON", `{`, "malformed", 0o600},
		{"more behind it", good + `{}`, "behind its end", 0o600},
		{"unknown version", `{"version":2}`, "version 2", 0o600},
		{"no version", `{}`, "version 0", 0o600},
		{"unknown field", `{"version":1,"revokd":[]}`, "revokd", 0o600},
		{"unknown grant", strings.Replace(good, `"ids"`, `"idz"`, 1), "idz", 0o600},
		{"malformed grant", strings.Replace(good, `["a"]`, `["a b"]`, 1), "a b", 0o600},
		{"short digest", strings.Replace(good, "0000", "", 1), "digest", 0o600},
		{"other digest", strings.Replace(good, "sha256", "md5", 1), "digest", 0o600},
		{"reserved subject", strings.Replace(good, `"s"`, `"secret"`, 1), "reserved", 0o600},
		{"same id twice", strings.Replace(good, `[{`, `[{"id":"a","digest":"sha256:`+strings.Repeat("1", 64)+`","subject":"s","created":"2026-01-01T00:00:00Z","grants":{}},{`, 1), "twice", 0o600},
		{"revocation of nothing", `{"version":1,"revoked":[{"at":"2026-01-01T00:00:00Z"}]}`, "want one of them", 0o600},
		{"others may read it", good, "chmod 600", 0o640},
		{"others may write it", good, "chmod 600", 0o602},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.mode != 0o600 && runtime.GOOS == "windows" {
				t.Skip("no such modes on windows")
			}
			store := auth.OpenStore(t.TempDir())
			if err := os.WriteFile(store.Path(), []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(store.Path(), tt.mode); err != nil {
				t.Fatal(err)
			}
			_, err := auth.NewAuthenticator(auth.Options{Store: store})
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), store.Path()) {
				t.Errorf("got %v, want an error with %q and the path", err, tt.want)
			}
			before, _ := os.ReadFile(store.Path())
			if _, err := store.Revoke(auth.Revocation{ID: "x"}); err == nil {
				t.Error("Revoke wrote over it")
			}
			if after, _ := os.ReadFile(store.Path()); string(after) != string(before) {
				t.Error("the file has changed")
			}
		})
	}
}

// A running server sees what was revoked, and forgets nothing when the file
// is gone or cannot be read.
func TestRunSeesRevocations(t *testing.T) {
	t.Parallel()
	store := auth.OpenStore(t.TempDir())
	static, id := create(t, store, auth.TokenClaims{Subject: "alice"})
	a := authenticator(t, auth.Options{Store: store})
	i := check(t, a, auth.Claim{Token: static}, "")
	if again, err := a.Recheck(i); err != nil || again.Subject != "alice" {
		t.Errorf("Recheck: got %+v, %v, want the same", again, err)
	}
	changed := running(t, a)
	if _, err := store.Revoke(auth.Revocation{ID: id}); err != nil {
		t.Fatal(err)
	}
	<-changed
	check(t, a, auth.Claim{Token: static}, auth.RevokedCredential)
	if _, err := a.Recheck(i); !isCode(err, auth.RevokedCredential) {
		t.Errorf("Recheck: got %v, want code %s", err, auth.RevokedCredential)
	}
	for name, spoil := range map[string]func() error{
		"gone":      func() error { return os.Remove(store.Path()) },
		"malformed": func() error { return os.WriteFile(store.Path(), []byte("{"), 0o600) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if err := reload(a); err == nil {
			t.Errorf("%s: Reload: got no error", name)
		}
		check(t, a, auth.Claim{Token: static}, auth.RevokedCredential)
	}
}

// reload reads all files of an authenticator again.
func reload(a *auth.Authenticator) error {
	apply, err := a.Prepare()
	if err == nil {
		apply()
	}
	return err
}

// running runs an authenticator until the test ends.
func running(t *testing.T, a *auth.Authenticator) (changed <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c, done := make(chan struct{}, 100), make(chan struct{})
	go func() {
		defer close(done)
		a.Run(ctx, func() { c <- struct{}{} })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

func isCode(err error, code auth.Code) bool {
	ae, ok := errors.AsType[*auth.Error](err)
	return ok && ae.Code == code
}

func FuzzStaticToken(f *testing.F) {
	store := auth.OpenStore(f.TempDir())
	good, id := create(f, store, auth.TokenClaims{Subject: "alice"})
	a := authenticator(f, auth.Options{Store: store})
	f.Add(good)
	f.Add("adit_token_" + id + "_")
	f.Add("adit_token__" + id)
	f.Fuzz(func(t *testing.T, tok string) {
		i, err := a.Authenticate(context.Background(), auth.Claim{Token: tok})
		if err == nil && tok != good {
			t.Fatalf("accepted %q as %+v", tok, i)
		}
	})
}

func FuzzParseStore(f *testing.F) {
	f.Add([]byte(`{"version":1,"static":[{"id":"a","digest":"sha256:` + strings.Repeat("0", 64) + `","subject":"s","created":"2026-01-01T00:00:00Z","grants":{"ids":["a"]}}],"revoked":[{"id":"x","at":"2026-01-01T00:00:00Z"}]}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		store := auth.OpenStore(filepath.Join(dir, fmt.Sprint(os.Getpid())))
		if err := os.MkdirAll(filepath.Dir(store.Path()), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(store.Path(), b, 0o600); err != nil {
			t.Fatal(err)
		}
		tokens, err := store.Load()
		if (tokens == nil) == (err == nil) {
			t.Errorf("got %v and %v, want one of them", tokens, err)
		}
	})
}
