package server_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/server"
	"adit/tunnel"
)

// An issuer signs tokens with a key of a key set.
type issuer struct {
	key ed25519.PrivateKey
	set []byte
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": base64.RawURLEncoding.EncodeToString(pub),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{key, set}
}

func (i *issuer) sign(t *testing.T, exp time.Time) string {
	t.Helper()
	tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": "issuer", "aud": "adit", "sub": "robot", "exp": exp.Unix(), "adit": map[string]any{"ids": []string{"*"}},
	})
	tok.Header["kid"] = "k"
	s, err := tok.SignedString(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func secretFile(t *testing.T, s auth.Secret) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(s.Reveal()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Each source of credentials, alone, turns away whoever shows nothing, or what
// another source would accept.
func TestEachSourceAloneTurnsAwayStrangers(t *testing.T) {
	t.Parallel()
	secret := auth.NewSecret()
	is := newIssuer(t)
	serve := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(is.set) }))
	t.Cleanup(serve.Close)
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, is.set, 0o600); err != nil {
		t.Fatal(err)
	}
	keys := func(source string) *auth.KeySet {
		k, err := auth.NewKeySet(auth.KeySetOptions{Source: source, Issuer: "issuer", Audience: "adit"})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	store := auth.OpenStore(t.TempDir())
	static, _, err := store.CreateStatic(auth.TokenClaims{Subject: "me", Scope: auth.Everything()})
	if err != nil {
		t.Fatal(err)
	}
	minted, err := auth.Mint(secret, auth.TokenClaims{Subject: "me", Expires: time.Now().Add(time.Hour), Scope: auth.Everything()})
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]string{"secret": secret.Reveal(), "minted": minted, "static": static, "issued": is.sign(t, time.Now().Add(time.Hour))}
	bad := map[string]string{
		"nothing":               "",
		"empty":                 "Authorization: Bearer \r\n",
		"another scheme":        "Authorization: Basic " + secret.Reveal() + "\r\n",
		"another secret":        "Authorization: Bearer " + auth.NewSecret().Reveal() + "\r\n",
		"unsigned token":        "Authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSIsImV4cCI6NDAwMDAwMDAwMH0.\r\n",
		"expired token":         "Authorization: Bearer " + is.sign(t, time.Now().Add(-time.Hour)) + "\r\n",
		"somebody else's token": "Authorization: Bearer " + newIssuer(t).sign(t, time.Now().Add(time.Hour)) + "\r\n",
		"certificate as header": "X-Client-Cert: yes\r\nX-SSL-Client-Verify: SUCCESS\r\n",
	}
	for _, tt := range []struct {
		name    string
		opts    auth.Options
		accepts string // of good, separated by spaces
	}{
		{"secret", auth.Options{Secrets: []auth.Secret{secret}}, "secret minted"},
		{"secret file", auth.Options{SecretFiles: []string{secretFile(t, secret)}}, "secret minted"},
		{"two secret files", auth.Options{SecretFiles: []string{secretFile(t, auth.NewSecret()), secretFile(t, secret)}}, "secret minted"},
		{"static tokens", auth.Options{Store: store}, "static"},
		{"no static tokens yet", auth.Options{Store: auth.OpenStore(t.TempDir())}, ""},
		{"key file", auth.Options{Keys: keys(file)}, "issued"},
		{"key URL", auth.Options{Keys: keys(serve.URL)}, "issued"},
		{"key URL that nobody answers", auth.Options{Keys: keys("http://127.0.0.1:1/jwks")}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, err := auth.NewAuthenticator(tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			f := start(t, func(o *server.Options) { o.Auth = a })
			for name, header := range bad {
				resp, _ := f.knock(t, header)
				if resp.StatusCode != 401 && resp.StatusCode != 503 || resp.Header.Get("Adit-Error") == "" {
					t.Errorf("%s: got %s with code %q, want it refused with a code", name, resp.Status, resp.Header.Get("Adit-Error"))
				}
			}
			for name, token := range good {
				_, err := f.dialSession(t, token)
				if want := strings.Contains(" "+tt.accepts+" ", " "+name+" "); (err == nil) != want {
					t.Errorf("%s: got %v, want it accepted: %v", name, err, want)
				}
			}
		})
	}
}

// Sessions end within seconds when their credential is withdrawn, and others
// go on.
func TestRevokedSessionEnds(t *testing.T) {
	t.Parallel()
	store := auth.OpenStore(t.TempDir())
	kept, changing := auth.NewSecret(), auth.NewSecret()
	path := secretFile(t, changing)
	a, err := auth.NewAuthenticator(auth.Options{Secrets: []auth.Secret{kept}, SecretFiles: []string{path}, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	f := start(t, func(o *server.Options) { o.Auth = a })
	f.secret = kept
	static, record, err := store.CreateStatic(auth.TokenClaims{Subject: "static", Scope: auth.Scope{IDs: []string{"*"}}})
	if err != nil {
		t.Fatal(err)
	}
	claims := func(id, subject string) auth.TokenClaims {
		return auth.TokenClaims{ID: id, Subject: subject, Scope: auth.Scope{IDs: []string{"*"}}}
	}
	tokens := map[string]string{
		"static": static, "jwt": f.mint(t, claims("one", "jwt")), "holder": f.mint(t, claims("", "holder")), "secret": changing.Reveal(),
		"stays": f.mint(t, claims("two", "jwt")), "stays too": kept.Reveal(),
	}
	sessions := map[string]*native.Session{}
	for name, token := range tokens {
		s := f.serveSession(t, token)
		id := tunnel.ID(strings.ReplaceAll(name, " ", "-"))
		if _, err := s.Bind(t.Context(), dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: id}); err != nil {
			t.Fatal(err)
		}
		sessions[name] = s
	}
	listed := map[string]string{} // token IDs by kind and subject
	for _, v := range f.Sessions() {
		listed[v.Credential+" "+v.Subject] = v.TokenID
	}
	if listed["static static"] != record.ID || listed["jwt holder"] == "" || len(listed) != 4 {
		t.Errorf("the sessions have %v, want the ID of each token", listed)
	}
	began := time.Now()
	for _, r := range []auth.Revocation{{ID: record.ID}, {ID: "one"}, {Subject: "holder"}} {
		if _, err := store.Revoke(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte(auth.NewSecret().Reveal()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"static", "jwt", "holder", "secret"} {
		select {
		case <-sessions[name].Done():
		case <-time.After(patience):
			t.Fatalf("%s: the session goes on", name)
		}
		if err := sessions[name].Err(); !isCredentialEnd(err) || !strings.Contains(err.Error(), "revoked") && !strings.Contains(err.Error(), "replaced") {
			t.Errorf("%s: the session ended with %v, want the word of the server that it was revoked", name, err)
		}
		if _, err := f.dialSession(t, tokens[name]); err == nil {
			t.Errorf("%s: it can connect again", name)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, name := range []string{"stays", "stays too"} {
		if err := sessions[name].Err(); err != nil {
			t.Errorf("%s: the session ended with %v", name, err)
		}
	}
}

func isCredentialEnd(err error) bool {
	_, credential := native.Ended(err)
	return credential
}

// serveSession is dialSession with the session served until the test ends.
func (f *fixture) serveSession(t *testing.T, token string) *native.Session {
	t.Helper()
	s, err := f.dialSession(t, token)
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, s)
	return s
}

func (f *fixture) serve(t *testing.T, s *native.Session) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		s.Serve(ctx)
		close(done)
	}()
	t.Cleanup(func() { cancel(); s.Close(); <-done })
}

// A session lives on what its newest carrier came with.
func TestResumedSessionLivesOnNewCredential(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	mint := func(left time.Duration, ids ...string) string {
		return f.mint(t, auth.TokenClaims{Subject: "me", Expires: time.Now().Add(left - 30*time.Second), Scope: auth.Scope{IDs: ids}})
	}
	tokens := make(chan string, 10)
	cut := make(chan net.Conn, 10)
	dial := func() *native.Session {
		t.Helper()
		d := &native.Dialer{
			Server: "ws://" + f.Addr().String(),
			Token:  func() (string, error) { return <-tokens, nil },
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err == nil {
					cut <- c
				}
				return c, err
			},
		}
		s, err := native.Dial(t.Context(), d, native.SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f.serve(t, s)
		if _, err := s.Bind(t.Context(), dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: "web"}); err != nil {
			t.Fatal(err)
		}
		return s
	}

	// A better one keeps it alive.
	tokens <- mint(3*time.Second, "web")
	s := dial()
	tokens <- mint(time.Hour, "web")
	(<-cut).Close()
	<-cut
	// One that does not allow what is bound, or ends before, changes nothing.
	tokens <- mint(3*time.Second, "web")
	other := dial()
	tokens <- mint(time.Hour, "api")
	(<-cut).Close()
	<-cut
	select {
	case <-other.Done():
	case <-time.After(patience):
		t.Fatal("the session lives on a credential that does not allow what it has bound")
	}
	if err := other.Err(); !isCredentialEnd(err) {
		t.Errorf("the session ended with %v, want the word of the server that the credential expired", err)
	}
	if err := s.Err(); err != nil {
		t.Errorf("the session with the better credential ended with %v", err)
	}
}

func TestAgentsOfOneSubject(t *testing.T) {
	t.Parallel()
	f := start(t, func(o *server.Options) { o.MaxAgentsPerSubject = 2 })
	alice := f.mint(t, auth.TokenClaims{Subject: "alice", Scope: auth.Scope{IDs: []string{"*"}}})
	bob := f.mint(t, auth.TokenClaims{Subject: "bob", Scope: auth.Scope{IDs: []string{"*"}}})
	with := func(token, instance string) func(*agent.Options) {
		return func(o *agent.Options) {
			o.Token, o.Instance = func() (string, error) { return token, nil }, instance
		}
	}
	up := saying(t, "web")
	one := f.agent(t, with(alice, "1"), httpTunnel(t, "web", up))
	one.up(t)
	f.agent(t, with(alice, "2"), httpTunnel(t, "web", up)).up(t)
	third := f.agent(t, with(alice, "3"), httpTunnel(t, "web", up))
	if err := third.phase(t, agent.Reconnecting).Err; err == nil || !strings.Contains(err.Error(), `"alice" has 2 agents`) {
		t.Errorf("the third agent: got %v, want the limit", err)
	}
	// One that takes over from its old self is none too many, and neither are
	// somebody else's.
	f.agent(t, with(alice, "1"), httpTunnel(t, "web", up)).up(t)
	if err := one.ended(t); !errors.Is(err, agent.ErrSuperseded) {
		t.Errorf("the old agent ended with %v, want %v", err, agent.ErrSuperseded)
	}
	for i := range 3 {
		if i < 2 {
			f.agent(t, with(bob, fmt.Sprint(i)), httpTunnel(t, "bobs", up)).up(t)
		}
		f.agent(t, func(o *agent.Options) { o.Instance = fmt.Sprint(i) }, httpTunnel(t, "mine", up)).up(t)
	}
}

func TestReservedIDs(t *testing.T) {
	t.Parallel()
	f := start(t, func(o *server.Options) { o.ReservedIDs = auth.Reserved{"billing", "corp-*"} })
	for _, tt := range []struct {
		ids  string
		id   string
		want bool
	}{
		{"*", "web", true}, {"*", "billing", false}, {"*", "bi11ing", false}, {"*", "corp-x", false}, {"billing", "billing", true}, {"corp-x", "corp-x", true},
	} {
		s, err := f.dialSession(t, f.mint(t, auth.TokenClaims{Subject: tt.ids, Scope: auth.Scope{IDs: []string{tt.ids}}}))
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Bind(t.Context(), dialect.Binding{Key: "k", Kind: dialect.HTTP, ID: tunnel.ID(tt.id)})
		if be, ok := errors.AsType[*dialect.BindError](err); tt.want && err != nil || !tt.want && (!ok || be.Code != dialect.BindForbidden) {
			t.Errorf("scope %q, id %q: got %v, want it allowed: %v", tt.ids, tt.id, err, tt.want)
		}
		s.Close()
	}
	opts := options(t, io.Discard, auth.NewSecret())
	opts.ReservedIDs = auth.Reserved{"a b"}
	if _, err := server.New(opts); err == nil {
		t.Error("a malformed pattern: got no error")
	}
}
