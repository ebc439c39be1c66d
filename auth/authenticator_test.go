package auth_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"adit/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func secret(t testing.TB, s string) auth.Secret {
	t.Helper()
	sec, err := auth.ParseSecret(s)
	if err != nil {
		t.Fatal(err)
	}
	return sec
}

const (
	rawOld   = "old-secret-0123456789"
	rawNew   = "new-secret-9876543210"
	rawOther = "somebody-elses-secret"
)

// hs256 is the hash of the algorithm of that name.
var hs256 = sha256.New

func authenticator(t testing.TB, opts auth.Options) *auth.Authenticator {
	t.Helper()
	a, err := auth.NewAuthenticator(opts)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// token signs header and claims by hand, with whatever they say.
func token(header, claims any, newHash func() hash.Hash, key string) string {
	part := func(v any) string {
		b, ok := v.(string)
		if !ok {
			j, err := json.Marshal(v)
			if err != nil {
				panic(err)
			}
			b = string(j)
		}
		return base64.RawURLEncoding.EncodeToString([]byte(b))
	}
	text := part(header) + "." + part(claims)
	if newHash == nil {
		return text + "."
	}
	mac := hmac.New(newHash, []byte(key))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

type m = map[string]any

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	now := time.Now()
	head := m{"alg": "HS256", "typ": "JWT"}
	good := func(change m) m {
		c := m{
			"sub":  "ci",
			"exp":  now.Add(time.Hour).Unix(),
			"iat":  now.Unix(),
			"adit": m{"ids": []string{"web-*"}, "tcp_ports": []string{"2000-2999", "22"}},
		}
		for k, v := range change {
			if v == nil {
				delete(c, k)
			} else {
				c[k] = v
			}
		}
		return c
	}
	signed := func(change m) string { return token(head, good(change), sha256.New, rawOld) }

	const same = "the credential is not valid here"
	for _, tt := range []struct {
		name   string
		token  string
		id     string
		aud    string
		code   auth.Code // empty means that it is accepted
		reason string    // if not empty
	}{
		{name: "secret", token: rawOld},
		{name: "overlapping secret", token: rawNew},
		{name: "secret with any id", token: rawOld, id: "anything"},
		{name: "token", token: signed(nil)},
		{name: "token under overlapping secret", token: token(head, good(nil), sha256.New, rawNew)},
		{name: "token with id in scope", token: signed(nil), id: "web-1"},
		{name: "expired within leeway", token: signed(m{"exp": now.Add(-20 * time.Second).Unix()})},
		{name: "not before within leeway", token: signed(m{"nbf": now.Add(20 * time.Second).Unix()})},
		{name: "hostnames and forwards", token: signed(m{"adit": m{"hostnames": []string{"*.example.com"}, "forward": []string{"db.internal:5432", "10.0.0.0/8:*"}}})},
		{name: "no iat", token: signed(m{"iat": nil})},
		{name: "audience", token: signed(m{"aud": "prod"}), aud: "prod"},
		{name: "one of the audiences", token: signed(m{"aud": []string{"test", "prod"}}), aud: "prod"},
		{name: "audience that nobody asks for", token: signed(m{"aud": "prod"})},

		{name: "none", token: "", code: auth.MissingCredential},
		{name: "wrong secret", token: rawOther, code: auth.InvalidCredential, reason: same},
		{name: "secret and more", token: rawOld + " ", code: auth.InvalidCredential, reason: same},
		{name: "start of the secret", token: rawOld[:len(rawOld)-1], code: auth.InvalidCredential, reason: same},
		{name: "signed by somebody else", token: token(head, good(nil), sha256.New, rawOther), code: auth.InvalidCredential, reason: same},
		{name: "expired and signed by somebody else", token: token(head, good(m{"exp": 1}), sha256.New, rawOther), code: auth.InvalidCredential, reason: same},
		{name: "signed with nothing", token: token(head, good(nil), sha256.New, ""), code: auth.InvalidCredential, reason: same},
		{name: "alg none", token: token(m{"alg": "none"}, good(nil), nil, ""), code: auth.InvalidCredential, reason: same},
		{name: "alg none, signed", token: token(m{"alg": "none"}, good(nil), sha256.New, rawOld), code: auth.InvalidCredential, reason: same},
		{name: "alg None", token: token(m{"alg": "None"}, good(nil), nil, ""), code: auth.InvalidCredential, reason: same},
		{name: "alg RS256 with the secret", token: token(m{"alg": "RS256"}, good(nil), sha256.New, rawOld), code: auth.InvalidCredential, reason: same},
		{name: "alg HS512", token: token(m{"alg": "HS512"}, good(nil), sha512.New, rawOld), code: auth.InvalidCredential, reason: same},
		{name: "alg HS384", token: token(m{"alg": "HS384"}, good(nil), sha512.New384, rawOld), code: auth.InvalidCredential, reason: same},
		{name: "no alg", token: token(m{}, good(nil), sha256.New, rawOld), code: auth.InvalidCredential, reason: same},
		{name: "critical extension", token: token(m{"alg": "HS256", "crit": []string{"b64"}, "b64": false}, good(nil), sha256.New, rawOld), code: auth.InvalidCredential, reason: same},
		{name: "claims are no object", token: token(head, "[]", sha256.New, rawOld), code: auth.InvalidCredential, reason: same},
		{name: "claims are no JSON", token: token(head, "{", sha256.New, rawOld), code: auth.InvalidCredential, reason: same},
		{name: "header is no JSON", token: token("{", good(nil), sha256.New, rawOld), code: auth.InvalidCredential, reason: same},
		{name: "two parts", token: "a.b", code: auth.InvalidCredential, reason: same},
		{name: "four parts", token: signed(nil) + ".x", code: auth.InvalidCredential, reason: same},
		{name: "padded", token: signed(nil) + "=", code: auth.InvalidCredential, reason: same},
		{name: "too long", token: signed(m{"pad": strings.Repeat("x", 8<<10)}), code: auth.InvalidCredential, reason: same},
		{name: "expired", token: signed(m{"exp": now.Add(-time.Minute).Unix()}), code: auth.ExpiredCredential},
		{name: "no exp", token: signed(m{"exp": nil}), code: auth.InvalidCredential},
		{name: "exp is text", token: signed(m{"exp": "tomorrow"}), code: auth.InvalidCredential},
		{name: "not yet valid", token: signed(m{"nbf": now.Add(time.Minute).Unix()}), code: auth.NotYetValid},
		{name: "issued in the future", token: signed(m{"iat": now.Add(time.Minute).Unix()}), code: auth.NotYetValid},
		{name: "no audience", token: signed(nil), aud: "prod", code: auth.InvalidCredential},
		{name: "other audience", token: signed(m{"aud": "test"}), aud: "prod", code: auth.InvalidCredential},
		{name: "no grants", token: signed(m{"adit": nil}), code: auth.Forbidden},
		{name: "empty grants", token: signed(m{"adit": m{}}), code: auth.Forbidden},
		{name: "grants of another claim", token: signed(m{"adit": nil, "ids": []string{"*"}, "endpoints": []string{"*"}}), code: auth.Forbidden},
		{name: "long jti", token: signed(m{"jti": strings.Repeat("j", 256)}), code: auth.InvalidCredential},
		{name: "unknown grant", token: signed(m{"adit": m{"ids": []string{"web"}, "allow_ip": "10.0.0.1"}}), code: auth.InvalidCredential, reason: `claim adit: unknown field "allow_ip"`},
		{name: "malformed hostname pattern", token: signed(m{"adit": m{"hostnames": []string{"app.*"}}}), code: auth.InvalidCredential},
		{name: "malformed forward rule", token: signed(m{"adit": m{"forward": []string{"db"}}}), code: auth.InvalidCredential},
		{name: "no sub", token: signed(m{"sub": nil}), code: auth.InvalidCredential},
		{name: "empty sub", token: signed(m{"sub": ""}), code: auth.InvalidCredential},
		{name: "sub of a certificate", token: signed(m{"sub": "cert:web"}), code: auth.InvalidCredential},
		{name: "sub of another issuer", token: signed(m{"sub": "jwks:web"}), code: auth.InvalidCredential},
		{name: "sub of the shared secret", token: signed(m{"sub": "secret"}), code: auth.InvalidCredential},
		{name: "sub with a line break", token: signed(m{"sub": "a\nb"}), code: auth.InvalidCredential},
		{name: "bad port range", token: signed(m{"adit": m{"tcp_ports": []string{"22-21"}}}), code: auth.InvalidCredential},
		{name: "bad pattern", token: signed(m{"adit": m{"ids": []string{""}}}), code: auth.InvalidCredential},
		{name: "ids is no list", token: signed(m{"adit": m{"ids": "*"}}), code: auth.InvalidCredential},
		{name: "id out of scope", token: signed(nil), id: "db", code: auth.Forbidden},
		{name: "no scope", token: signed(m{"adit": nil}), id: "web-1", code: auth.Forbidden},
		{name: "empty scope", token: signed(m{"adit": m{"ids": []string{}}}), id: "web-1", code: auth.Forbidden},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := authenticator(t, auth.Options{Secrets: []auth.Secret{secret(t, rawOld), secret(t, rawNew)}, Audience: tt.aud})
			id, err := a.Authenticate(t.Context(), auth.Claim{Token: tt.token, ID: tt.id})
			if tt.code == "" {
				if err != nil {
					t.Fatalf("got error %v, want an identity", err)
				}
				return
			}
			aerr, ok := errors.AsType[*auth.Error](err)
			if !ok || id != nil {
				t.Fatalf("got %+v, %v, want a %s error", id, err, tt.code)
			}
			if aerr.Code != tt.code {
				t.Errorf("got code %s (%v), want %s", aerr.Code, err, tt.code)
			}
			if tt.reason != "" && aerr.Reason != tt.reason {
				t.Errorf("got reason %q, want %q", aerr.Reason, tt.reason)
			}
			if tt.token != "" && strings.Contains(err.Error(), tt.token) {
				t.Errorf("the error contains the token: %v", err)
			}
		})
	}
}

func TestNothingConfigured(t *testing.T) {
	t.Parallel()
	a := authenticator(t, auth.Options{})
	for _, tok := range []string{"", "x", rawOld, token(m{"alg": "HS256"}, m{"sub": "a", "exp": int64(1) << 40}, sha256.New, "")} {
		if id, err := a.Authenticate(t.Context(), auth.Claim{Token: tok}); err == nil {
			t.Errorf("token %q: got %+v, want an error", tok, id)
		}
	}
}

func TestNewAuthenticatorRefuses(t *testing.T) {
	t.Parallel()
	s := secret(t, rawOld)
	for name, secrets := range map[string][]auth.Secret{
		"three secrets": {s, s, s},
		"zero secret":   {{}},
	} {
		if _, err := auth.NewAuthenticator(auth.Options{Secrets: secrets}); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	s := secret(t, rawOld)
	a := authenticator(t, auth.Options{Secrets: []auth.Secret{s}})

	id, err := a.Authenticate(t.Context(), auth.Claim{Token: rawOld})
	if err != nil {
		t.Fatal(err)
	}
	if id.Subject != "secret" || !id.Expires.IsZero() || !id.Scope.AllowsID("any") || !id.Scope.AllowsPort(1) || !id.Scope.AllowsPort(65535) {
		t.Errorf("shared secret: got %+v, want everything, for ever", id)
	}

	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	scope := auth.Scope{IDs: []string{"web-*", "db"}, Ports: []auth.PortRange{{2000, 2999}, {22, 22}}}
	tok, err := auth.Mint(s, auth.TokenClaims{Subject: "ci", Expires: expires, Audience: "x", Scope: scope})
	if err != nil {
		t.Fatal(err)
	}
	id, err = a.Authenticate(t.Context(), auth.Claim{Token: tok})
	if err != nil {
		t.Fatal(err)
	}
	if id.Subject != "ci" || !id.Expires.Equal(expires.Add(30*time.Second)) ||
		!slices.Equal(id.Scope.IDs, scope.IDs) || !slices.Equal(id.Scope.Ports, scope.Ports) {
		t.Errorf("token: got %+v, want subject ci, scope %+v, until %v", id, scope, expires)
	}
}

func TestTokenExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := secret(t, rawOld)
		a := authenticator(t, auth.Options{Secrets: []auth.Secret{s}})
		tok, err := auth.Mint(s, auth.TokenClaims{
			Subject: "ci", NotBefore: time.Now().Add(time.Hour), Expires: time.Now().Add(2 * time.Hour), Scope: auth.Everything(),
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			pass time.Duration
			code auth.Code
		}{{0, auth.NotYetValid}, {time.Hour, ""}, {59 * time.Minute, ""}, {2 * time.Minute, auth.ExpiredCredential}} {
			time.Sleep(step.pass) // the bubble's clock
			_, err := a.Authenticate(context.Background(), auth.Claim{Token: tok})
			aerr, _ := errors.AsType[*auth.Error](err)
			if got := aerr; got == nil && step.code != "" || got != nil && got.Code != step.code {
				t.Errorf("after another %v: got %v, want %q", step.pass, err, step.code)
			}
		}
	})
}

func TestMintRefuses(t *testing.T) {
	t.Parallel()
	s, soon := secret(t, rawOld), time.Now().Add(time.Hour)
	for name, f := range map[string]func() (string, error){
		"no secret": func() (string, error) {
			return auth.Mint(auth.Secret{}, auth.TokenClaims{Subject: "ci", Expires: soon})
		},
		"no subject":       func() (string, error) { return auth.Mint(s, auth.TokenClaims{Expires: soon}) },
		"reserved subject": func() (string, error) { return auth.Mint(s, auth.TokenClaims{Subject: "secret", Expires: soon}) },
		"no expiry":        func() (string, error) { return auth.Mint(s, auth.TokenClaims{Subject: "ci"}) },
		"bad pattern": func() (string, error) {
			return auth.Mint(s, auth.TokenClaims{Subject: "ci", Expires: soon, Scope: auth.Scope{IDs: []string{"a b"}}})
		},
		"port 0": func() (string, error) {
			return auth.Mint(s, auth.TokenClaims{Subject: "ci", Expires: soon, Scope: auth.Scope{Ports: []auth.PortRange{{}}}})
		},
	} {
		if tok, err := f(); err == nil {
			t.Errorf("%s: got token %q, want an error", name, tok)
		}
	}
}

// FuzzAuthenticate looks for a token that is accepted though its signature is
// not that of the secret.
func FuzzAuthenticate(f *testing.F) {
	claims := m{"sub": "a", "exp": int64(1) << 40, "adit": m{"ids": []string{"*"}}}
	f.Add(rawOld)
	f.Add("")
	f.Add("..")
	f.Add(token(m{"alg": "HS256"}, claims, sha256.New, rawOld))
	f.Add(token(m{"alg": "HS256"}, claims, sha256.New, rawOther))
	f.Add(token(m{"alg": "none"}, claims, nil, ""))
	f.Add(token(m{"alg": "RS256"}, claims, sha256.New, rawOld))
	f.Add(token(m{"alg": "HS256"}, m{"exp": 1e300, "nbf": -1e300, "sub": "a"}, sha256.New, rawOld))
	a := authenticator(f, auth.Options{Secrets: []auth.Secret{secret(f, rawOld)}})
	f.Fuzz(func(t *testing.T, tok string) {
		id, err := a.Authenticate(t.Context(), auth.Claim{Token: tok})
		if (id == nil) == (err == nil) {
			t.Fatalf("got %+v and %v, want one of them", id, err)
		}
		if err != nil {
			if _, ok := errors.AsType[*auth.Error](err); !ok {
				t.Fatalf("got a %T, want an *auth.Error", err)
			}
			return
		}
		if tok == rawOld {
			return
		}
		i := strings.LastIndexByte(tok, '.')
		mac := hmac.New(sha256.New, []byte(rawOld))
		fmt.Fprint(mac, tok[:i])
		if want := base64.RawURLEncoding.EncodeToString(mac.Sum(nil)); tok[i+1:] != want {
			t.Fatalf("accepted %q, whose signature should be %q", tok, want)
		}
	})
}
