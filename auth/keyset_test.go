package auth_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/auth"
)

const (
	issuer   = "https://issuer.test"
	audience = "adit.test"
)

func TestKeySetTokens(t *testing.T) {
	t.Parallel()
	rs, es, ed := newSigner(t, "RS256", "r"), newSigner(t, "ES256", "e"), newSigner(t, "EdDSA", "d")
	stranger := newSigner(t, "ES256", "e")
	nameless := newSigner(t, "EdDSA", "")
	es384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(rs.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	asPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	pkcs1 := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(rs.key.Public().(*rsa.PublicKey))}))
	set := keySet(t, rs.jwk(t), es.jwk(t), ed.jwk(t))
	hmacWith := func(alg, kid, key string) string {
		return token(m{"alg": alg, "kid": kid}, goodClaims(nil), hs256, key)
	}

	a, _ := withKeys(t, auth.Options{Secrets: []auth.Secret{secret(t, rawOld)}}, rs.jwk(t), es.jwk(t), ed.jwk(t), nameless.jwk(t))
	for _, tt := range []struct {
		name  string
		token string
		code  auth.Code
	}{
		{"RS256", rs.token(t, nil), ""},
		{"ES256", es.token(t, nil), ""},
		{"EdDSA", ed.token(t, nil), ""},
		{"without kid", es.sign(t, m{"alg": "ES256"}, goodClaims(nil)), ""},
		{"key without kid", nameless.sign(t, m{"alg": "EdDSA"}, goodClaims(nil)), ""},
		{"several audiences", es.token(t, m{"aud": []string{"x", audience}}), ""},
		{"HS256 under the secret, without issuer", token(m{"alg": "HS256"}, goodClaims(m{"iss": nil, "aud": nil}), hs256, rawOld), ""},

		{"no issuer", es.token(t, m{"iss": nil}), auth.InvalidCredential},
		{"other issuer", es.token(t, m{"iss": "https://evil.test"}), auth.InvalidCredential},
		{"no audience", es.token(t, m{"aud": nil}), auth.InvalidCredential},
		{"other audience", es.token(t, m{"aud": "x"}), auth.InvalidCredential},
		{"no expiry", es.token(t, m{"exp": nil}), auth.InvalidCredential},
		{"expired", es.token(t, m{"exp": time.Now().Add(-time.Minute).Unix()}), auth.ExpiredCredential},
		{"not yet valid", es.token(t, m{"nbf": time.Now().Add(time.Minute).Unix()}), auth.NotYetValid},
		{"no scope", es.token(t, m{"adit": nil}), auth.Forbidden},
		{"no subject", es.token(t, m{"sub": nil}), auth.InvalidCredential},
		{"the secret's subject", es.token(t, m{"sub": "secret"}), auth.InvalidCredential},

		{"somebody else's key under a known kid", stranger.token(t, nil), auth.InvalidCredential},
		{"unknown kid", es.sign(t, m{"alg": "ES256", "kid": "x"}, goodClaims(nil)), auth.InvalidCredential},
		{"kid of another key", es.sign(t, m{"alg": "ES256", "kid": "r"}, goodClaims(nil)), auth.InvalidCredential},
		{"kid that is a path", es.sign(t, m{"alg": "ES256", "kid": "../../../../dev/null"}, goodClaims(nil)), auth.InvalidCredential},
		{"kid that is SQL", es.sign(t, m{"alg": "ES256", "kid": "e' OR '1'='1"}, goodClaims(nil)), auth.InvalidCredential},
		{"kid of the secret file", hmacWith("HS256", "/dev/null", ""), auth.InvalidCredential},
		{"long kid", es.sign(t, m{"alg": "ES256", "kid": strings.Repeat("k", 300)}, goodClaims(nil)), auth.InvalidCredential},
		{"kid that is no text", stranger.sign(t, m{"alg": "ES256", "kid": 7}, goodClaims(nil)), auth.InvalidCredential},
		{"key in the header", stranger.sign(t, m{"alg": "ES256", "kid": "new", "jwk": stranger.jwk(t)}, goodClaims(nil)), auth.InvalidCredential},
		{"URL of keys in the header", stranger.sign(t, m{"alg": "ES256", "kid": "new", "jku": "https://evil.test/jwks", "x5u": "https://evil.test/x"}, goodClaims(nil)), auth.InvalidCredential},
		{"certificate in the header", stranger.sign(t, m{"alg": "ES256", "kid": "new", "x5c": []string{b64(der)}}, goodClaims(nil)), auth.InvalidCredential},
		{"unknown critical extension", es.sign(t, m{"alg": "ES256", "kid": "e", "crit": []string{"b64"}, "b64": false}, goodClaims(nil)), auth.InvalidCredential},

		// A public key is no secret, and a secret no public key.
		{"HS256 with the public key as PEM", hmacWith("HS256", "r", asPEM), auth.InvalidCredential},
		{"HS256 with the public key as PEM, trimmed", hmacWith("HS256", "r", strings.TrimSpace(asPEM)), auth.InvalidCredential},
		{"HS256 with the public key as PKCS 1", hmacWith("HS256", "r", pkcs1), auth.InvalidCredential},
		{"HS256 with the public key as DER", hmacWith("HS256", "r", string(der)), auth.InvalidCredential},
		{"HS256 with the modulus", hmacWith("HS256", "r", string(rs.key.Public().(*rsa.PublicKey).N.Bytes())), auth.InvalidCredential},
		{"HS256 with the Ed25519 key", hmacWith("HS256", "d", string(ed.key.Public().(ed25519.PublicKey))), auth.InvalidCredential},
		{"HS256 with the key set", hmacWith("HS256", "r", string(set)), auth.InvalidCredential},
		{"RS256 that is an HMAC of the secret", hmacWith("RS256", "r", rawOld), auth.InvalidCredential},
		{"EdDSA that is an HMAC of the secret", hmacWith("EdDSA", "d", rawOld), auth.InvalidCredential},
		{"RS256 by the key of ES256", es.sign(t, m{"alg": "RS256", "kid": "e"}, goodClaims(nil)), auth.InvalidCredential},
		{"ES256 by the key of EdDSA", ed.sign(t, m{"alg": "ES256", "kid": "d"}, goodClaims(nil)), auth.InvalidCredential},
		{"HS256 by the key of RS256", rs.sign(t, m{"alg": "HS256", "kid": "r"}, goodClaims(nil)), auth.InvalidCredential},
		{"ES384", (&signer{key: es384}).sign(t, m{"alg": "ES384", "kid": "e"}, goodClaims(nil)), auth.InvalidCredential},
		{"RS512", rs.sign(t, m{"alg": "RS512", "kid": "r"}, goodClaims(nil)), auth.InvalidCredential},
		{"PS256", rs.sign(t, m{"alg": "PS256", "kid": "r"}, goodClaims(nil)), auth.InvalidCredential},
		{"none", token(m{"alg": "none", "kid": "e"}, goodClaims(nil), nil, ""), auth.InvalidCredential},
		{"signature of zeros", withoutSignature(es.token(t, nil)) + b64(make([]byte, 64)), auth.InvalidCredential},
		{"no signature", withoutSignature(es.token(t, nil)), auth.InvalidCredential},
		{"huge", es.token(t, m{"pad": strings.Repeat("x", 8<<10)}), auth.InvalidCredential},
		{"other claims under the signature", b64([]byte(`{"alg":"ES256","kid":"e"}`)) + "." + b64([]byte(`{"sub":"x"}`)) + es.token(t, nil)[strings.LastIndexByte(es.token(t, nil), '.'):], auth.InvalidCredential},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			i := check(t, a, auth.Claim{Token: tt.token}, tt.code)
			if i != nil && !strings.HasPrefix(tt.name, "HS256") && i.Subject != "jwks:robot" {
				t.Errorf("got subject %q, want jwks:robot, which nobody else can have", i.Subject)
			}
		})
	}

	// Of many keys a token names one: nobody has the server try them all.
	var many []m
	for i := range 20 {
		many = append(many, newSigner(t, "EdDSA", fmt.Sprint(i)).jwk(t))
	}
	crowd, _ := withKeys(t, auth.Options{}, append(many, ed.jwk(t))...)
	check(t, crowd, auth.Claim{Token: ed.token(t, nil)}, "")
	check(t, crowd, auth.Claim{Token: ed.sign(t, m{"alg": "EdDSA"}, goodClaims(nil))}, auth.InvalidCredential)

	// Without the secret HS256 is nobody's, and without keys the others are.
	onlyKeys, _ := withKeys(t, auth.Options{}, rs.jwk(t))
	check(t, onlyKeys, auth.Claim{Token: rs.token(t, nil)}, "")
	for _, key := range []string{"", asPEM, string(der), rawOld} {
		check(t, onlyKeys, auth.Claim{Token: hmacWith("HS256", "r", key)}, auth.InvalidCredential)
	}
	check(t, onlyKeys, auth.Claim{Token: rawOld}, auth.InvalidCredential)
	check(t, onlyKeys, auth.Claim{}, auth.MissingCredential)
	onlySecret := authenticator(t, auth.Options{Secrets: []auth.Secret{secret(t, rawOld)}})
	check(t, onlySecret, auth.Claim{Token: rs.token(t, nil)}, auth.InvalidCredential)
}

func TestKeySetFiles(t *testing.T) {
	t.Parallel()
	es, rs := newSigner(t, "ES256", "e"), newSigner(t, "RS256", "r")
	with := func(k m, change m) m {
		c := m{}
		for n, v := range k {
			c[n] = v
		}
		for n, v := range change {
			c[n] = v
		}
		return c
	}
	many := make([]m, 101)
	for i := range many {
		many[i] = with(es.jwk(t), m{"kid": fmt.Sprint(i)})
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip(err)
	}
	for _, tt := range []struct {
		name    string
		content []byte
		err     string // part of it
	}{
		{"good", keySet(t, es.jwk(t), rs.jwk(t)), ""},
		{"for signatures", keySet(t, with(es.jwk(t), m{"use": "sig", "alg": "ES256", "key_ops": []string{"verify"}})), ""},
		{"one of an unknown kind beside it", keySet(t, m{"kty": "AKP", "alg": "ML-DSA-44"}, es.jwk(t)), ""},
		{"one of another curve beside it", keySet(t, m{"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}, es.jwk(t)), ""},
		{"empty", nil, "no JSON web key set"},
		{"no JSON", []byte("-----BEGIN PUBLIC KEY-----"), "no JSON web key set"},
		{"no keys", []byte(`{}`), "no key"},
		{"no usable keys", keySet(t, m{"kty": "AKP"}), "no key"},
		{"for encryption", keySet(t, with(rs.jwk(t), m{"use": "enc"})), "no key"},
		{"for signing", keySet(t, with(rs.jwk(t), m{"key_ops": []string{"sign"}})), "no key"},
		{"for another algorithm", keySet(t, with(rs.jwk(t), m{"alg": "PS256"})), "no key"},
		{"RSA key for HS256", keySet(t, with(rs.jwk(t), m{"alg": "HS256"})), "no key"},
		{"symmetric", keySet(t, es.jwk(t), m{"kty": "oct", "kid": "s", "k": b64([]byte(rawOld))}), `key 2 (kid "s") is secret`},
		{"symmetric under another name", keySet(t, with(es.jwk(t), m{"k": b64([]byte(rawOld))})), "is secret"},
		{"private", keySet(t, with(es.jwk(t), m{"d": b64([]byte("private"))})), "is secret"},
		{"too many", keySet(t, many...), "101 keys: at most 100"},
		{"too large", bytes.Repeat([]byte(" "), 1<<20), "more than"},
		{"short RSA key", keySet(t, m{"kty": "RSA", "n": b64(small.N.Bytes()), "e": "AQAB"}), "1024 bits"},
		{"long RSA key", keySet(t, m{"kty": "RSA", "n": b64(bytes.Repeat([]byte{255}, 2000)), "e": "AQAB"}), "16000 bits"},
		{"RSA exponent 1", keySet(t, with(rs.jwk(t), m{"e": "AQ"})), "e is 1"},
		{"RSA exponent that is even", keySet(t, with(rs.jwk(t), m{"e": "BA"})), "e is 4"},
		{"huge RSA exponent", keySet(t, with(rs.jwk(t), m{"e": b64(bytes.Repeat([]byte{255}, 100))})), "e: want"},
		{"point that is not on the curve", keySet(t, with(es.jwk(t), m{"y": b64(make([]byte, 32))})), "no point of P-256"},
		{"short coordinate", keySet(t, with(es.jwk(t), m{"x": "AA"})), "32 bytes"},
		{"short Ed25519 key", keySet(t, m{"kty": "OKP", "crv": "Ed25519", "x": "AA"}), "32 bytes"},
		{"padded", keySet(t, with(es.jwk(t), m{"x": base64.URLEncoding.EncodeToString(make([]byte, 32))})), "32 bytes"},
		{"long kid", keySet(t, with(es.jwk(t), m{"kid": strings.Repeat("k", 256)})), "kid has 256 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "jwks.json")
			if err := os.WriteFile(path, tt.content, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := auth.NewKeySet(auth.KeySetOptions{Source: path, Issuer: issuer, Audience: audience})
			if tt.err == "" && err != nil {
				t.Errorf("got %v, want it accepted", err)
			}
			if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), path)) {
				t.Errorf("got %v, want an error with %q and the path", err, tt.err)
			}
			if err != nil && strings.Contains(err.Error(), b64([]byte(rawOld))) {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func TestNewKeySetRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		opts auth.KeySetOptions
		want string
	}{
		{"no issuer", auth.KeySetOptions{Source: "https://issuer.test/jwks", Audience: audience}, "issuer"},
		{"no audience", auth.KeySetOptions{Source: "https://issuer.test/jwks", Issuer: issuer}, "audience"},
		{"no file", auth.KeySetOptions{Source: "/nonexistent/jwks", Issuer: issuer, Audience: audience}, "/nonexistent/jwks"},
		{"not encrypted", auth.KeySetOptions{Source: "http://issuer.test/jwks", Issuer: issuer, Audience: audience}, "https"},
		{"looks like loopback", auth.KeySetOptions{Source: "http://127.0.0.1.evil.test/jwks", Issuer: issuer, Audience: audience}, "https"},
		{"another scheme", auth.KeySetOptions{Source: "ftp://issuer.test/jwks", Issuer: issuer, Audience: audience}, "https"},
		{"file URL", auth.KeySetOptions{Source: "file:///etc/passwd", Issuer: issuer, Audience: audience}, "malformed"},
		{"with a password", auth.KeySetOptions{Source: "https://me:hidden@issuer.test/jwks", Issuer: issuer, Audience: audience}, "password"},
		{"malformed", auth.KeySetOptions{Source: "https://", Issuer: issuer, Audience: audience}, "malformed"},
	} {
		_, err := auth.NewKeySet(tt.opts)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
}

// Keys in a file are rotated while the server runs, and what was signed with
// the old one is worth nothing then.
func TestKeyFileIsRotated(t *testing.T) {
	t.Parallel()
	old, next := newSigner(t, "ES256", "old"), newSigner(t, "ES256", "new")
	a, path := withKeys(t, auth.Options{}, old.jwk(t))
	changed := running(t, a)
	i := check(t, a, auth.Claim{Token: old.token(t, nil)}, "")
	check(t, a, auth.Claim{Token: next.token(t, nil)}, auth.InvalidCredential)
	put := func(b []byte) {
		if err := os.WriteFile(path+".new", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	put(keySet(t, old.jwk(t), next.jwk(t)))
	<-changed
	check(t, a, auth.Claim{Token: old.token(t, nil)}, "")
	check(t, a, auth.Claim{Token: next.token(t, nil)}, "")
	if _, err := a.Recheck(i); err != nil {
		t.Errorf("Recheck while both keys are there: %v", err)
	}

	put([]byte("{"))
	if err := reload(a); err == nil {
		t.Error("Reload of a malformed file: got no error")
	}
	check(t, a, auth.Claim{Token: next.token(t, nil)}, "")

	put(keySet(t, next.jwk(t)))
	<-changed
	check(t, a, auth.Claim{Token: old.token(t, nil)}, auth.InvalidCredential)
	if _, err := a.Recheck(i); !isCode(err, auth.RevokedCredential) {
		t.Errorf("Recheck when the key is gone: got %v, want code %s", err, auth.RevokedCredential)
	}
}

// FuzzKeySet feeds files to the parser, and FuzzKeySetToken tokens to an
// authenticator whose key nobody has.
func FuzzKeySet(f *testing.F) {
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		f.Add(keySet(f, newSigner(f, alg, "k").jwk(f)))
	}
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`))
	path := filepath.Join(f.TempDir(), "jwks.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := auth.NewKeySet(auth.KeySetOptions{Source: path, Issuer: issuer, Audience: audience})
		if err == nil && k == nil {
			t.Error("got neither keys nor an error")
		}
	})
}

func FuzzKeySetToken(f *testing.F) {
	known, stranger := newSigner(f, "ES256", "k"), newSigner(f, "ES256", "k")
	a, _ := withKeys(f, auth.Options{}, known.jwk(f))
	f.Add(stranger.token(f, nil))
	f.Add(token(m{"alg": "none", "kid": "k"}, goodClaims(nil), nil, ""))
	mac := hmac.New(sha256.New, []byte(rawOld))
	f.Add(withoutSignature(stranger.token(f, nil)) + b64(mac.Sum(nil)))
	f.Fuzz(func(t *testing.T, tok string) {
		if i, err := a.Authenticate(context.Background(), auth.Claim{Token: tok}); err == nil {
			t.Fatalf("accepted %q as %+v", tok, i)
		}
	})
}
