package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"adit/auth"
)

// adminURL waits until the admin address is open.
func adminURL(t *testing.T, c *command) string {
	t.Helper()
	return "http://" + c.err.wait(t, `(?s)admin address open.*?listen"?[:=]"?([^"\s]+)`)
}

func askAdmin(t *testing.T, url, token string) int {
	t.Helper()
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestAdminOfServer(t *testing.T) {
	t.Parallel()
	c, visitors := startServer(t, "--admin", "127.0.0.1:0")
	url := adminURL(t, c)
	askAdmin(t, "http"+strings.TrimPrefix(visitors, "ws")+"/", "") // whom it serves as soon as it is ready
	path := filepath.Join(c.dataDir(), "admin-token")
	token, err := auth.LoadSecret(path) // which is for nobody else
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path, token string
		want        int
	}{
		{"/healthz", "", 200},
		{"/readyz", "", 200},
		{"/api/v1/sessions", "", 401},
		{"/api/v1/sessions", testSecret, 401}, // the agents' secret is no key to this
		{"/api/v1/sessions", token.Reveal(), 200},
	} {
		if got := askAdmin(t, url+tt.path, tt.token); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.path, got, tt.want)
		}
	}
	c.stop()
	text := c.out.String() + c.err.String()
	if strings.Contains(text, token.Reveal()) || !strings.Contains(text, path) {
		t.Errorf("got %q, want the path of the token and not the token", text)
	}
}

// Nobody opens the admin address by mistake.
func TestAdminRefusesToStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty, open, short := filepath.Join(dir, "empty"), filepath.Join(dir, "open"), filepath.Join(dir, "short")
	for path, text := range map[string]string{empty: "", open: strings.Repeat("t", 40), short: "short"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string // in the error
	}{
		{"public without a token", []string{"--admin", ":0", "--admin-token-file", filepath.Join(dir, "none")}, exitFailed, "make one with"},
		{"public with an empty token", []string{"--admin", ":0", "--admin-token-file", empty}, exitFailed, "secret is empty"},
		{"public with a short token", []string{"--admin", ":0", "--admin-token-file", short}, exitFailed, "it takes 16"},
		{"token that others can read", []string{"--admin", ":0", "--admin-token-file", open}, exitFailed, "chmod 600"},
		{"read token that is not there", []string{"--admin", "127.0.0.1:0", "--admin-read-token-file", filepath.Join(dir, "none")}, exitFailed, "--admin-read-token-file"},
		{"address without port", []string{"--admin", "127.0.0.1"}, exitUsage, "127.0.0.1:9090"},
		{"token without address", []string{"--admin-token-file", short}, exitUsage, "without --admin"},
		{"metrics without address", []string{"--admin-open-metrics"}, exitUsage, "without --admin"},
		{"hosts without address", []string{"--admin-hosts", "x"}, exitUsage, "without --admin"},
		{"delay", []string{"--drain-delay", "-1s"}, exitUsage, "--drain-delay"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCommand(t)
			code := c.run(t.Context(), append([]string{"server", "--listen", "127.0.0.1:0"}, tt.args...))
			if text := c.err.String(); code != tt.code || !strings.Contains(text, tt.want) {
				t.Errorf("got exit code %d and %q, want %d and something with %q", code, text, tt.code, tt.want)
			}
		})
	}
}
