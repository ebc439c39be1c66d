package wstunnel

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strings"
)

// checkPassword judges the password of a client's token, if that has one. It
// returns the text that refuses the client, or nothing.
func checkPassword(passwords map[string]string, token string, r *http.Request) string {
	want, has := passwords[token]
	if !has {
		return ""
	}
	password, text := passwordOf(token, r)
	if text != "" {
		return text
	}
	given, expected := sha256.Sum256([]byte(password)), sha256.Sum256([]byte(want))
	if subtle.ConstantTimeCompare(given[:], expected[:]) != 1 {
		return "Invalid token or password"
	}
	return ""
}

// passwordOf returns the password that a client sends with its token, or the
// text of the original's continuation that says what is wrong.
func passwordOf(token string, r *http.Request) (password, text string) {
	value := r.Header.Get("Authorization")
	if value == "" {
		return "", "Authorization required for this token"
	}
	scheme, encoded, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "Invalid authorization type (must be Basic)"
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return "", "Invalid authorization encoding"
	}
	// The token may have colons itself.
	password, ok := strings.CutPrefix(string(raw), token+":")
	switch {
	case ok:
		return password, ""
	case !strings.Contains(string(raw), ":"):
		return "", "Invalid authorization format"
	}
	return "", "Invalid token or password"
}
