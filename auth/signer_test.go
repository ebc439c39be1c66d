package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/auth"
)

// b64 is how keys and tokens write bytes.
func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// A signer has a private key of one of the algorithms that key sets have.
type signer struct {
	alg, kid string
	key      crypto.Signer
}

// Keys of RSA take long to make.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func newSigner(t testing.TB, alg, kid string) *signer {
	t.Helper()
	s := &signer{alg: alg, kid: kid}
	var err error
	switch alg {
	case "RS256":
		s.key = rsaKey()
	case "ES256":
		s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, s.key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// jwk is the public key as a key set has it.
func (s *signer) jwk(t testing.TB) m {
	t.Helper()
	switch k := s.key.Public().(type) {
	case *rsa.PublicKey:
		return m{"kty": "RSA", "kid": s.kid, "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
	case *ecdsa.PublicKey:
		b, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return m{"kty": "EC", "kid": s.kid, "crv": "P-256", "x": b64(b[1:33]), "y": b64(b[33:])}
	case ed25519.PublicKey:
		return m{"kty": "OKP", "kid": s.kid, "crv": "Ed25519", "x": b64(k)}
	}
	panic("unreachable")
}

// sign signs header and claims, whatever they say, with the signer's key.
func (s *signer) sign(t testing.TB, header, claims m) string {
	t.Helper()
	h, err1 := json.Marshal(header)
	c, err2 := json.Marshal(claims)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	text := b64(h) + "." + b64(c)
	digest := sha256.Sum256([]byte(text))
	var sig []byte
	var err error
	switch k := s.key.(type) {
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, digest[:])
	case *ecdsa.PrivateKey:
		r, v, serr := ecdsa.Sign(rand.Reader, k, digest[:])
		size := (k.Params().BitSize + 7) / 8
		err, sig = serr, make([]byte, 2*size)
		r.FillBytes(sig[:size])
		v.FillBytes(sig[size:])
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(sig)
}

// token is a good token, but for what change says.
func (s *signer) token(t testing.TB, change m) string {
	t.Helper()
	return s.sign(t, m{"alg": s.alg, "kid": s.kid}, goodClaims(change))
}

func goodClaims(change m) m {
	c := m{
		"iss": issuer, "aud": audience, "sub": "robot", "jti": "j1",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"adit": m{"ids": []string{"web-*"}},
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

func keySet(t testing.TB, keys ...m) []byte {
	t.Helper()
	b, err := json.Marshal(m{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// withKeys returns an authenticator with a key set in a file.
func withKeys(t testing.TB, more auth.Options, keys ...m) (a *auth.Authenticator, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, keySet(t, keys...), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := auth.NewKeySet(auth.KeySetOptions{Source: path, Issuer: issuer, Audience: audience})
	if err != nil {
		t.Fatal(err)
	}
	more.Keys = k
	return authenticator(t, more), path
}

func withoutSignature(tok string) string { return tok[:strings.LastIndexByte(tok, '.')+1] }
