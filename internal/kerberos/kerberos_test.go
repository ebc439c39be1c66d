package kerberos_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"adit/internal/kerberos"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What cannot be used is an error that says what it is. Tickets that can be are
// tried by package e2e, with a distribution centre.
func TestNoTicket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	settings := file("krb5.conf", []byte("[libdefaults]\ndefault_realm = EXAMPLE.COM\n"))
	for _, tt := range []struct {
		name, cache, config, want string
	}{
		{"no cache", filepath.Join(dir, "none"), settings, "see kinit"},
		{"a cache of another kind", "KEYRING:persistent:0", settings, `"KEYRING"`},
		{"no settings", file("cache", nil), filepath.Join(dir, "none"), "none"},
		{"empty", "FILE:" + file("empty", nil), settings, "malformed"},
		{"cut off", file("cut", []byte{5}), settings, "malformed"},
		{"something else", file("else", []byte("nothing")), settings, "Invalid credential cache"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tickets := kerberos.New(func(name string) string {
				return map[string]string{"KRB5CCNAME": tt.cache, "KRB5_CONFIG": tt.config}[name]
			})
			token, err := tickets.Token(t.Context(), "proxy.example.com")
			if err == nil || token != nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "no ticket of Kerberos") {
				t.Errorf("got %q, %v, want %q", token, err, tt.want)
			}
		})
	}
}
