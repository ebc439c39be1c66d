package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

const (
	maxJWKS   = 512 << 10 // bytes
	maxKeys   = 100
	maxKeyID  = 255 // bytes
	minRSA    = 2048
	maxRSA    = 8192
	algHS256  = "HS256"
	algRS256  = "RS256"
	algES256  = "ES256"
	algEdDSA  = "EdDSA"
	sizeP256  = 32 // bytes of a coordinate
	maxExpRSA = 1<<31 - 1
)

// asymmetric are the algorithms of keys in a set. What is secret cannot be one
// of them.
var asymmetric = []string{algRS256, algES256, algEdDSA}

// A publicKey is a key of a set, with the name that the set gives it.
type publicKey struct {
	signingKey
	id string // may be empty
}

// A jwk is a JSON Web Key (RFC 7517), as far as we look at it. Fields of bytes
// are base64url.
type jwk struct {
	Type string   `json:"kty"`
	Use  string   `json:"use"`
	Ops  []string `json:"key_ops"`
	Alg  string   `json:"alg"`
	ID   string   `json:"kid"`
	Crv  string   `json:"crv"`
	N    string   `json:"n"`
	E    string   `json:"e"`
	X    string   `json:"x"`
	Y    string   `json:"y"`
	D    string   `json:"d"` // private
	K    string   `json:"k"` // symmetric
}

// parseKeySet returns the keys of a JWK set that verify RS256, ES256 or EdDSA.
// It skips others, as RFC 7517, section 5, asks; but a set with a secret in it
// was not meant to be read by us, or by anybody, and is refused.
func parseKeySet(b []byte) ([]publicKey, error) {
	if len(b) > maxJWKS {
		return nil, fmt.Errorf("has more than %d bytes", maxJWKS)
	}
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, errors.New("is no JSON web key set (RFC 7517, section 5)")
	}
	if n := len(set.Keys); n > maxKeys {
		return nil, fmt.Errorf("has %d keys: at most %d are allowed", n, maxKeys)
	}
	var keys []publicKey
	for i, k := range set.Keys {
		name := fmt.Sprintf("key %d", i+1)
		if k.ID != "" {
			name = fmt.Sprintf("key %d (kid %.40q)", i+1, k.ID)
		}
		if k.Type == "oct" || k.K != "" || k.D != "" {
			return nil, fmt.Errorf("%s is secret: a set for verification has public keys alone; don't use this one any more", name)
		}
		if k.Use != "" && k.Use != "sig" || len(k.Ops) > 0 && !slices.Contains(k.Ops, "verify") {
			continue
		}
		if len(k.ID) > maxKeyID {
			return nil, fmt.Errorf("%s: its kid has %d bytes: at most %d are allowed", name, len(k.ID), maxKeyID)
		}
		alg, key, err := k.public()
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", name, err)
		case alg == "" || k.Alg != "" && k.Alg != alg:
			continue
		}
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		keys = append(keys, publicKey{signingKey{alg: alg, key: key, sum: sha256.Sum256(der)}, k.ID})
	}
	if len(keys) == 0 {
		return nil, errors.New("has no key to verify RS256, ES256 or EdDSA with")
	}
	return keys, nil
}

// public returns the key and what it verifies; alg is empty for kinds that are
// not supported.
func (k jwk) public() (alg string, key crypto.PublicKey, err error) {
	switch {
	case k.Type == "RSA":
		key, err = k.rsa()
		return algRS256, key, err
	case k.Type == "EC" && k.Crv == "P-256":
		key, err = k.ecdsa()
		return algES256, key, err
	case k.Type == "OKP" && k.Crv == "Ed25519":
		x, err := decode(k.X)
		if err != nil || len(x) != ed25519.PublicKeySize {
			return "", nil, fmt.Errorf("x: want %d bytes in base64url", ed25519.PublicKeySize)
		}
		return algEdDSA, ed25519.PublicKey(x), nil
	}
	return "", nil, nil
}

func (k jwk) rsa() (*rsa.PublicKey, error) {
	n, err := decode(k.N)
	if err != nil {
		return nil, errors.New("n: want bytes in base64url")
	}
	e, err := decode(k.E)
	if err != nil || len(e) == 0 || len(e) > 4 {
		return nil, errors.New("e: want 1 to 4 bytes in base64url")
	}
	exp := new(big.Int).SetBytes(e).Int64()
	if exp < 3 || exp > maxExpRSA || exp%2 == 0 {
		return nil, fmt.Errorf("e is %d: want an odd number from 3 to %d", exp, maxExpRSA)
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exp)}
	if bits := key.N.BitLen(); bits < minRSA || bits > maxRSA {
		return nil, fmt.Errorf("n has %d bits: %d to %d are allowed", bits, minRSA, maxRSA)
	}
	return key, nil
}

func (k jwk) ecdsa() (*ecdsa.PublicKey, error) {
	x, errX := decode(k.X)
	y, errY := decode(k.Y)
	if errX != nil || errY != nil || len(x) != sizeP256 || len(y) != sizeP256 {
		return nil, fmt.Errorf("x and y: want %d bytes each in base64url", sizeP256)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	if err != nil {
		return nil, errors.New("x and y are no point of P-256")
	}
	return key, nil
}

// decode decodes base64url; padding is not allowed there, but tolerated by
// nobody who signs, and so not by us.
func decode(s string) ([]byte, error) { return base64.RawURLEncoding.Strict().DecodeString(s) }
