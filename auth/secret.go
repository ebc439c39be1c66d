package auth

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

const (
	secretFile   = "secret"
	secretPrefix = "adit_" // lets scanners for leaked secrets know it
	secretRandom = 32      // bytes
	minSecret    = 16      // bytes
	maxSecret    = 4096    // bytes
	redacted     = "[redacted]"
)

// A Secret is shared by the server and its agents. However it is printed,
// logged or marshalled it shows as [redacted]; Reveal returns it. The zero
// Secret is none.
type Secret struct{ value string }

// ParseSecret returns s without the white space around it. It takes 16 to 4096
// bytes.
func ParseSecret(s string) (Secret, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return Secret{}, errors.New("secret is empty")
	case len(s) < minSecret || len(s) > maxSecret:
		return Secret{}, fmt.Errorf("secret has %d bytes: it takes %d to %d", len(s), minSecret, maxSecret)
	}
	return Secret{s}, nil
}

// NewSecret returns a random secret of 32 bytes, written as "adit_" and their
// base64url.
func NewSecret() Secret {
	b := make([]byte, secretRandom)
	rand.Read(b)
	return Secret{secretPrefix + base64.RawURLEncoding.EncodeToString(b)}
}

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return s.value }

// IsZero reports whether s is no secret.
func (s Secret) IsZero() bool { return s.value == "" }

// Format implements fmt.Formatter, for every verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and so keeps the secret out
// of JSON too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LoadSecret reads a secret from a file that nobody but its owner, the user of
// this process, may read or write.
func LoadSecret(path string) (Secret, error) {
	s, err := loadSecret(path)
	if err != nil {
		return Secret{}, fmt.Errorf("secret file %s: %w", path, err)
	}
	return s, nil
}

func loadSecret(path string) (Secret, error) {
	b, err := readFile(path, 2*maxSecret, checkPrivate)
	if err != nil {
		return Secret{}, err
	}
	return ParseSecret(string(b))
}

// ReadPrivate reads a file of at most limit bytes that nobody but its owner, the
// user of this process, may read or write.
func ReadPrivate(path string, limit int64) ([]byte, error) {
	b, err := readFile(path, limit, checkPrivate)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

// LoadOrCreateSecret reads the secret of a data directory. If there is none it
// makes the directory and a secret, and created is true. Several processes may
// call it at once: all of them get the same secret.
func LoadOrCreateSecret(dir string) (s Secret, created bool, err error) {
	return LoadOrCreateNamed(dir, secretFile)
}

// LoadOrCreateNamed is LoadOrCreateSecret for a secret with another purpose,
// and the name of its file.
func LoadOrCreateNamed(dir, name string) (s Secret, created bool, err error) {
	path := filepath.Join(dir, name)
	s, err = LoadSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, false, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Secret{}, false, fmt.Errorf("data directory: %w", err)
	}
	if err := checkDir(dir); err != nil {
		return Secret{}, false, fmt.Errorf("data directory %s: %w", dir, err)
	}
	s = NewSecret()
	switch err := create(path, s.value+"\n"); {
	case errors.Is(err, fs.ErrExist): // another process was faster
		s, err = LoadSecret(path)
		return s, false, err
	case err != nil:
		return Secret{}, false, fmt.Errorf("create secret: %w", err)
	}
	return s, true, nil
}
