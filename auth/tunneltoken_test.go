package auth_test

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"adit/auth"
)

const (
	tunnelSecretA = "test-secret-a"
	tunnelSecretB = "test-secret-b"
)

func tunnelTokens(t testing.TB, opts auth.TunnelTokenOptions) *auth.TunnelTokens {
	t.Helper()
	if opts.Secrets == nil {
		opts.Secrets = []string{tunnelSecretA, tunnelSecretB}
	}
	tt, err := auth.NewTunnelTokens(opts)
	if err != nil {
		t.Fatal(err)
	}
	return tt
}

// What the programs made of recorded tokens, which are valid for a hundred
// years: with the lax setting they fare the same, but for an audience at a
// server that has none, which the documentation allows.
func TestTunnelTokenVectors(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/websocktunnel/tokens.json")
	if err != nil {
		t.Fatal(err)
	}
	var tokens []struct {
		Name    string
		Token   string
		ID      string `json:"id_header"`
		Answers map[string]int
		Claims  map[string]any
	}
	if err := json.Unmarshal(text, &tokens); err != nil {
		t.Fatal(err)
	}
	if len(tokens) < 20 {
		t.Fatalf("only %d tokens", len(tokens))
	}
	for audience, column := range map[string]string{"": "106 AUDIENCE unset", "right": "106 AUDIENCE=right"} {
		lax := tunnelTokens(t, auth.TunnelTokenOptions{Audience: audience, Lax: true})
		strict := tunnelTokens(t, auth.TunnelTokenOptions{Audience: audience})
		for _, tok := range tokens {
			want := tok.Answers[column] == 101 || audience == "" && strings.HasPrefix(tok.Name, "aud-")
			claim := auth.Claim{Token: tok.Token, ID: tok.ID}
			id, err := lax.Authenticate(t.Context(), claim)
			if (err == nil) != want {
				t.Errorf("%s with audience %q: got %v, %v; want accepted: %v", tok.Name, audience, id, err, want)
			}
			if id, err := strict.Authenticate(t.Context(), claim); err == nil {
				t.Errorf("%s, strictly: got %v, want an error", tok.Name, id)
			}
		}
	}
}

func TestTunnelTokens(t *testing.T) {
	t.Parallel()
	now := time.Now()
	good := func(change m) m {
		c := m{"tid": "demo", "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix()}
		for k, v := range change {
			if v == nil {
				delete(c, k)
			} else {
				c[k] = v
			}
		}
		return c
	}
	hs256 := m{"alg": "HS256", "typ": "JWT"}
	signed := func(change m) string { return token(hs256, good(change), sha256.New, tunnelSecretA) }
	day := 24 * time.Hour

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rs256, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims(good(nil))).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)})

	for _, tt := range []struct {
		name  string
		token string
		id    string // "demo" if empty
		aud   string
		code  auth.Code // empty means that it is accepted
		lax   auth.Code // the same with the lax setting; "same" if empty
	}{
		{name: "good", token: signed(nil)},
		{name: "secret B", token: token(hs256, good(nil), sha256.New, tunnelSecretB)},
		{name: "no iat, or one ahead", token: signed(m{"iat": now.Add(day).Unix()})},
		{name: "fractions", token: signed(m{"nbf": float64(now.UnixNano())/1e9 - 1, "exp": float64(now.UnixNano())/1e9 + 10.5})},
		{name: "31 days", token: signed(m{"exp": now.Add(31*day - time.Minute).Unix()})},
		{name: "32 days", token: signed(m{"exp": now.Add(32 * day).Unix()}), code: auth.InvalidCredential, lax: "ok"},
		{name: "for ever", token: signed(m{"exp": 1e300}), code: auth.InvalidCredential, lax: "ok"},
		{name: "beyond numbers", token: token(hs256, fmt.Sprintf(`{"tid":"demo","nbf":%d,"exp":1e999}`, now.Unix()-5), sha256.New, tunnelSecretA), code: auth.InvalidCredential, lax: "ok"},
		{name: "expired just now", token: signed(m{"exp": now.Unix()}), code: auth.ExpiredCredential},
		{name: "expired", token: signed(m{"exp": now.Add(-time.Second).Unix()}), code: auth.ExpiredCredential},
		{name: "not yet valid", token: signed(m{"nbf": now.Add(30 * time.Second).Unix()}), code: auth.NotYetValid},
		{name: "no nbf", token: signed(m{"nbf": nil}), code: auth.InvalidCredential},
		{name: "nbf 0", token: signed(m{"nbf": 0}), code: auth.InvalidCredential},
		{name: "nbf negative", token: signed(m{"nbf": -5}), code: auth.InvalidCredential},
		{name: "no exp", token: signed(m{"exp": nil}), code: auth.InvalidCredential},
		{name: "exp in quotes", token: signed(m{"exp": "4102444800"}), code: auth.InvalidCredential},
		{name: "exp null", token: token(hs256, fmt.Sprintf(`{"tid":"demo","nbf":%d,"exp":null}`, now.Unix()-5), sha256.New, tunnelSecretA), code: auth.InvalidCredential},
		{name: "exp true", token: signed(m{"exp": true}), code: auth.InvalidCredential},
		{name: "no tid", token: signed(m{"tid": nil}), code: auth.InvalidCredential},
		{name: "tid null", token: token(hs256, fmt.Sprintf(`{"tid":null,"nbf":%d,"exp":%d}`, now.Unix()-5, now.Unix()+60), sha256.New, tunnelSecretA), code: auth.InvalidCredential},
		{name: "tid in capitals", token: signed(m{"tid": nil, "TID": "demo"}), code: auth.InvalidCredential},
		{name: "tid is a number", token: signed(m{"tid": 5}), id: "5", code: auth.InvalidCredential},
		{name: "tid is a list", token: signed(m{"tid": []string{"demo"}}), code: auth.InvalidCredential},
		{name: "another tid", token: signed(m{"tid": "other"}), code: auth.Forbidden},
		{name: "tid with a pattern", token: signed(m{"tid": "d*"}), code: auth.Forbidden},
		{name: "tid empty", token: signed(m{"tid": ""}), code: auth.Forbidden},
		{name: "aud at a server without", token: signed(m{"aud": "any"})},
		{name: "aud", token: signed(m{"aud": "right"}), aud: "right"},
		{name: "one of several", token: signed(m{"aud": []string{"x", "right"}}), aud: "right"},
		{name: "another aud", token: signed(m{"aud": "wrong"}), aud: "right", code: auth.InvalidCredential},
		{name: "none of several", token: signed(m{"aud": []string{"x", "y"}}), aud: "right", code: auth.InvalidCredential},
		{name: "no aud", token: signed(nil), aud: "right", code: auth.InvalidCredential, lax: "ok"},
		{name: "aud empty", token: signed(m{"aud": ""}), aud: "right", code: auth.InvalidCredential, lax: "ok"},
		{name: "aud a number", token: signed(m{"aud": 5}), aud: "right", code: auth.InvalidCredential, lax: "ok"},
		{name: "aud list of nothing", token: signed(m{"aud": []string{""}}), aud: "right", code: auth.InvalidCredential, lax: "ok"},
		{name: "none sent", token: "", code: auth.MissingCredential},
		{name: "the secret itself", token: tunnelSecretA, code: auth.InvalidCredential},
		{name: "another secret", token: token(hs256, good(nil), sha256.New, "test-secret-x"), code: auth.InvalidCredential},
		{name: "no secret", token: token(hs256, good(nil), sha256.New, ""), code: auth.InvalidCredential},
		{name: "alg none", token: token(m{"alg": "none"}, good(nil), nil, ""), code: auth.InvalidCredential},
		{name: "alg none, signed", token: token(m{"alg": "none"}, good(nil), sha256.New, tunnelSecretA), code: auth.InvalidCredential},
		{name: "alg RS256 with the secret as key", token: token(m{"alg": "RS256"}, good(nil), sha256.New, tunnelSecretA), code: auth.InvalidCredential},
		{name: "RS256", token: rs256, code: auth.InvalidCredential},
		{name: "HS256 with a public key", token: token(hs256, good(nil), sha256.New, string(public)), code: auth.InvalidCredential},
		{name: "critical extension", token: token(m{"alg": "HS256", "crit": []string{"x"}, "x": 1}, good(nil), sha256.New, tunnelSecretA), code: auth.InvalidCredential},
		{name: "huge", token: signed(m{"pad": strings.Repeat("x", 20<<10)}), code: auth.InvalidCredential},
		{name: "claims are a list", token: token(hs256, "[]", sha256.New, tunnelSecretA), code: auth.InvalidCredential},
		{name: "garbage", token: "abc.def.ghi", code: auth.InvalidCredential},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.id == "" {
				tt.id = "demo"
			}
			want := map[bool]auth.Code{false: tt.code, true: tt.code}
			if tt.lax == "ok" {
				want[true] = ""
			}
			for lax, code := range want {
				tokens := tunnelTokens(t, auth.TunnelTokenOptions{Audience: tt.aud, Lax: lax})
				id, err := tokens.Authenticate(t.Context(), auth.Claim{Token: tt.token, ID: tt.id})
				aerr, _ := errors.AsType[*auth.Error](err)
				switch {
				case code == "" && err != nil:
					t.Errorf("lax %v: got %v, want it accepted", lax, err)
				case code == "" && (id.Subject != auth.TunnelTokenSubject || !id.Scope.AllowsID("demo") || id.Scope.AllowsID("demo2") || id.Scope.AllowsPort(80) || !id.Expires.IsZero()):
					t.Errorf("lax %v: got %+v, want the one id for as long as the session lasts", lax, id)
				case code != "" && (aerr == nil || aerr.Code != code):
					t.Errorf("lax %v: got %+v, %v; want %q", lax, id, err, code)
				case err != nil && (strings.Contains(err.Error(), "test-secret") || len(tt.token) > 20 && strings.Contains(err.Error(), tt.token[:20])):
					t.Errorf("the error shows what is secret: %v", err)
				}
			}
		})
	}
}

func TestTunnelTokenOptions(t *testing.T) {
	t.Parallel()
	for name, secrets := range map[string][]string{
		"none": nil, "empty": {""}, "second empty": {"a", ""}, "three": {"a", "b", "c"},
	} {
		if _, err := auth.NewTunnelTokens(auth.TunnelTokenOptions{Secrets: secrets}); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	tokens := tunnelTokens(t, auth.TunnelTokenOptions{Subject: "ci"})
	id, err := tokens.Authenticate(t.Context(), auth.Claim{ID: "a", Token: token(m{"alg": "HS256"},
		m{"tid": "a", "nbf": 1, "exp": time.Now().Unix() + 60}, sha256.New, tunnelSecretA)})
	if err == nil {
		t.Errorf("got %+v, want an error: it is valid since 1970", id)
	}
	id, err = tokens.Authenticate(t.Context(), auth.Claim{ID: "a", Token: token(m{"alg": "HS256"},
		m{"tid": "a", "nbf": time.Now().Unix() - 60, "exp": time.Now().Unix() + 60}, sha256.New, tunnelSecretA)})
	if err != nil || id.Subject != "ci" {
		t.Errorf("got %+v, %v; want the subject ci", id, err)
	}
	if shown := fmt.Sprintf("%+v %#v", tokens, tokens); strings.Contains(shown, tunnelSecretA) {
		t.Error("a secret shows when the value is printed")
	}
}

// FuzzTunnelToken looks for a token that is accepted though its signature or its
// tid is not right.
func FuzzTunnelToken(f *testing.F) {
	claims := m{"tid": "demo", "nbf": 946684800, "exp": int64(4102444800)}
	f.Add(token(m{"alg": "HS256"}, claims, sha256.New, tunnelSecretA))
	f.Add(token(m{"alg": "none"}, claims, nil, ""))
	f.Add(token(m{"alg": "HS256"}, m{"tid": "demo", "nbf": 1, "exp": math.MaxFloat64, "aud": []any{1, nil}}, sha256.New, tunnelSecretB))
	f.Add("..")
	tokens := tunnelTokens(f, auth.TunnelTokenOptions{Lax: true})
	f.Fuzz(func(t *testing.T, tok string) {
		id, err := tokens.Authenticate(t.Context(), auth.Claim{Token: tok, ID: "demo"})
		if err != nil {
			if _, ok := errors.AsType[*auth.Error](err); !ok || id != nil {
				t.Fatalf("got %v, a %T, want nothing and an *auth.Error", id, err)
			}
			return
		}
		i := strings.LastIndexByte(tok, '.')
		for _, secret := range []string{tunnelSecretA, tunnelSecretB} {
			mac := hmac.New(sha256.New, []byte(secret))
			fmt.Fprint(mac, tok[:i])
			if tok[i+1:] == base64.RawURLEncoding.EncodeToString(mac.Sum(nil)) {
				return
			}
		}
		t.Fatalf("accepted %q, whose signature is wrong", tok)
	})
}
