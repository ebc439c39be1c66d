package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"adit/auth"
	"adit/dialect/native"
)

// Each setting that says who may connect works, as a flag and as a variable:
// whoever shows nothing, or something else, is turned away. A setting that is
// ignored would leave the server open, or its operator without a way in.
func TestEverySourceOfCredentialsCounts(t *testing.T) {
	t.Parallel()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":%q}]}`, base64.RawURLEncoding.EncodeToString(pub))
	serve := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(set)) }))
	t.Cleanup(serve.Close)
	sign := func(claims jwt.MapClaims) string {
		claims["iss"], claims["aud"], claims["exp"] = "ci", "adit", time.Now().Add(time.Hour).Unix()
		token, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	signed := sign(jwt.MapClaims{"sub": "robot", "adit": map[string]any{"ids": []string{"*"}}})
	unscoped := sign(jwt.MapClaims{"sub": "robot"})
	grants := "grants:\n  - jwt: {sub: robot}\n    ids: ['*']\n"
	const other = "another secret of these tests"

	for _, tt := range []struct {
		name     string
		settings []string // flag, value, …
		inData   map[string]string
		good     string
		bad      []string
	}{
		{name: "secret made at the first start", good: "FILE secret", bad: []string{testSecret}},
		{name: "secret in the data directory", inData: map[string]string{"secret": testSecret}, good: testSecret, bad: []string{other}},
		{name: "secret file", settings: []string{"secret-file", writeFile(t, testSecret)}, inData: map[string]string{"secret": other}, good: testSecret, bad: []string{other}},
		{name: "old secret file", settings: []string{"old-secret-file", writeFile(t, testSecret)}, good: testSecret, bad: []string{other}},
		{name: "static token", good: "STATIC", bad: []string{other, "adit_token_x_y"}},
		{name: "key file", settings: []string{"jwks", writeFile(t, set), "jwt-issuer", "ci", "jwt-audience", "adit"}, good: signed, bad: []string{unscoped, other}},
		{name: "key URL", settings: []string{"jwks", serve.URL, "jwt-issuer", "ci", "jwt-audience", "adit"}, good: signed, bad: []string{unscoped, other}},
		{name: "another issuer", settings: []string{"jwks", serve.URL, "jwt-issuer", "cd", "jwt-audience", "adit"}, bad: []string{signed}},
		{name: "another audience", settings: []string{"jwks", serve.URL, "jwt-issuer", "ci", "jwt-audience", "else"}, bad: []string{signed}},
		{name: "grants", settings: []string{"jwks", serve.URL, "jwt-issuer", "ci", "jwt-audience", "adit", "grants", writeFile(t, grants)}, good: unscoped, bad: []string{other}},
		{name: "grants for others", settings: []string{"jwks", serve.URL, "jwt-issuer", "ci", "jwt-audience", "adit", "grants", writeFile(t, strings.Replace(grants, "robot", "x", 1))}, bad: []string{signed, unscoped}},
	} {
		for _, way := range []string{"flags", "environment"} {
			if way == "environment" && len(tt.settings) == 0 {
				continue
			}
			t.Run(tt.name+" by "+way, func(t *testing.T) {
				t.Parallel()
				data := t.TempDir()
				for name, content := range tt.inData {
					if err := os.WriteFile(filepath.Join(data, name), []byte(content), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				good := tt.good
				if good == "STATIC" {
					good = strings.TrimSpace(want(t, "", "token", "create", "--type", "static", "--id", "x", "--data-dir", data))
				}
				args, environ := []string{"server", "--listen", "127.0.0.1:0", "--data-dir", data}, []string(nil)
				for i := 0; i < len(tt.settings); i += 2 {
					if way == "flags" {
						args = append(args, "--"+tt.settings[i], tt.settings[i+1])
					} else {
						environ = append(environ, envName(tt.settings[i])+"="+tt.settings[i+1])
					}
				}
				s := newCommand(t, environ...).start(t, args...)
				url := "ws://" + s.err.wait(t, `"server started","listen":"([^"]*)"`)
				if name, ok := strings.CutPrefix(good, "FILE "); ok {
					secret, err := auth.LoadSecret(filepath.Join(data, name))
					if err != nil {
						t.Fatal(err)
					}
					good = secret.Reveal()
				}
				connect := func(token string) error {
					d := &native.Dialer{Server: url}
					if token != "" {
						d.Token = func() (string, error) { return token, nil }
					}
					session, err := native.Dial(t.Context(), d, native.SessionOptions{})
					if err == nil {
						session.Close()
					}
					return err
				}
				for _, token := range append(tt.bad, "", "x", good+"x") {
					if err := connect(token); err == nil || !strings.Contains(err.Error(), "40") {
						t.Errorf("with %.10q…: got %v, want it turned away", token, err)
					}
				}
				if good != "" {
					if err := connect(good); err != nil {
						t.Errorf("with the credential: %v", err)
					}
				}
			})
		}
	}
}
