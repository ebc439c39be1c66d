package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"adit/auth"
)

// dataDir is a server's folder with testSecret.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(testSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// want runs the program, which has to succeed, and returns what it prints.
func want(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	c := newCommand(t)
	c.in = strings.NewReader(stdin)
	if code := c.run(t.Context(), args); code != exitDone {
		t.Fatalf("adit %s: exit code %d: %s", strings.Join(args, " "), code, c.err)
	}
	return c.out.String()
}

func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s: got %q, want something with %q", what, text, p)
		}
	}
}

func TestTokenCreate(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	flags := []string{"--id", "web-*,db", "--hostname", "app.example.com", "--tcp-ports", "2000-2999,22", "--udp-ports", "53", "--forward", "db.internal:5432,10.0.0.0/8:*", "--data-dir", dir}
	parts := []string{"web-*, db", "app.example.com", "2000-2999, 22", "db.internal:5432, 10.0.0.0/8:*", "the server accepts it"}
	secret, err := auth.ParseSecret(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	a, err := auth.NewAuthenticator(auth.Options{Secrets: []auth.Secret{secret}, Store: auth.OpenStore(dir)})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"jwt", "static"} {
		t.Run(kind, func(t *testing.T) {
			token := strings.TrimSpace(want(t, "", append(flags, "token", "create", "--type", kind, "--subject", "alice", "--ttl", "24h")...))
			id, err := a.Authenticate(t.Context(), auth.Claim{Token: token})
			if err != nil {
				t.Fatal(err)
			}
			if id.Subject != "alice" || !id.Scope.AllowsID("web-1") || !id.Scope.AllowsID("db") || id.Scope.AllowsID("api") ||
				!id.Scope.AllowsHostname("app.example.com") || !id.Scope.AllowsPort(2000) || !id.Scope.AllowsPort(22) || id.Scope.AllowsPort(80) || id.Scope.AllowsPort(53) || !id.Scope.AllowsUDPPort(53) || id.Scope.AllowsUDPPort(22) || len(id.Scope.Forward) != 2 {
				t.Errorf("got %+v, want what the flags say", id)
			}
			if left := time.Until(id.Expires); left < 23*time.Hour || left > 25*time.Hour {
				t.Errorf("got a token for %v, want 24h", left)
			}
			contains(t, "inspect", want(t, token, "token", "inspect", "--data-dir", dir), append(parts, "alice", id.Token, "in 2")...)

			// Without --subject it is its own.
			token = strings.TrimSpace(want(t, "", append(flags, "token", "create", "--type", kind)...))
			if id, err := a.Authenticate(t.Context(), auth.Claim{Token: token}); err != nil || id.Subject != id.Token || id.Token == "" {
				t.Errorf("got %+v, %v, want its ID for a subject", id, err)
			}
		})
	}
	forever := strings.TrimSpace(want(t, "", append(flags, "token", "create", "--type", "static", "--ttl", "0s")...))
	if id, err := a.Authenticate(t.Context(), auth.Claim{Token: forever}); err != nil || !id.Expires.IsZero() {
		t.Errorf("got %+v, %v, want a token for ever", id, err)
	}

	out := filepath.Join(t.TempDir(), "alice.token")
	if printed := want(t, "", append(flags, "token", "create", "--out", out)...); printed != "" {
		t.Errorf("with --out: got %q, want nothing", printed)
	}
	if info, err := os.Stat(out); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a file for the owner alone", info, err)
	}
	contains(t, "inspect of a file", want(t, "", "token", "inspect", out, "--data-dir", dir), parts...)
}

func TestTokenInspect(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	token := strings.TrimSpace(want(t, "", "token", "create", "--id", "web", "--data-dir", dir))
	static := strings.TrimSpace(want(t, "", "token", "create", "--id", "web", "--type", "static", "--data-dir", dir))

	// Elsewhere it cannot be checked, and says so.
	contains(t, "elsewhere", want(t, token, "token", "inspect", "--data-dir", t.TempDir()), "web", "not checked", "no secret")
	contains(t, "elsewhere", want(t, static, "token", "inspect", "--data-dir", t.TempDir()), "static token", "not checked")

	for _, tt := range []struct {
		name, token, dir string
		want             []string
	}{
		{"another server", token, func() string {
			other := t.TempDir()
			os.WriteFile(filepath.Join(other, "secret"), []byte("another secret than that"), 0o600)
			return other
		}(), []string{"refuses it", "not valid here"}},
		{"tampered static", static[:len(static)-1] + "_", dir, []string{"refuses it"}},
		{"no token", "hello", dir, []string{"no token"}},
		{"the secret", "adit_0123456789", dir, []string{"secret"}},
		{"nothing", "", dir, []string{"no token"}},
		{"huge", strings.Repeat("x", 1<<20), dir, []string{"no token"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCommand(t)
			c.in = strings.NewReader(tt.token)
			if code := c.run(t.Context(), []string{"token", "inspect", "--data-dir", tt.dir}); code != exitFailed {
				t.Errorf("got exit code %d, want %d", code, exitFailed)
			}
			contains(t, "output", c.out.String()+c.err.String(), tt.want...)
			if strings.Contains(c.out.String()+c.err.String(), tt.token) && len(tt.token) > 10 {
				t.Errorf("the token shows in %q", c.err)
			}
		})
	}

	var got struct {
		Type, ID, Subject string
		Scope             map[string]string
		Check             struct {
			Valid   *bool
			Checked string
		}
	}
	if err := json.Unmarshal([]byte(want(t, token, "token", "inspect", "--json", "--data-dir", dir)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Type != "jwt" || got.ID == "" || got.Scope["ids"] != "web" || got.Check.Valid == nil || !*got.Check.Valid {
		t.Errorf("got %+v, want a good token for web", got)
	}

	// As an argument it works, and is warned of.
	c := newCommand(t)
	if code := c.run(t.Context(), []string{"token", "inspect", token, "--data-dir", dir}); code != exitDone {
		t.Errorf("got exit code %d: %s", code, c.err)
	}
	contains(t, "warning", c.err.String(), "everybody on this machine")
}

// A token is made while the server runs, used, revoked, and of no use then.
func TestTokenIsRevoked(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	s := newCommand(t).start(t, "server", "--listen", "127.0.0.1:0", "--data-dir", dir)
	url := "ws://" + s.err.wait(t, `"server started","listen":"([^"]*)"`)
	site := site(t)
	for _, kind := range []string{"static", "jwt"} {
		token := strings.TrimSpace(want(t, "", "token", "create", "--id", kind, "--type", kind, "--subject", kind, "--data-dir", dir))
		a := newCommand(t, "ADIT_TOKEN="+token).start(t, "http", site, "--id", kind, "--server", url)
		a.out.wait(t, `(http://\S+) +->`)

		file := writeFile(t, token)
		contains(t, "revoke", want(t, "", "token", "revoke", "--file", file, "--data-dir", dir), "revoked")
		line := a.out.wait(t, `(the credential was revoked[^\n]*)\n`)
		if !strings.Contains(line, "ADIT_TOKEN") {
			t.Errorf("got %q, want a remedy", line)
		}
		a.out.wait(t, `(refused, trying again: the credential was revoked)`)
		a.stop()
		for _, text := range []string{a.out.String(), a.err.String(), s.err.String()} {
			if strings.Contains(text, token) {
				t.Errorf("the token shows in %q", text)
			}
		}
		list := want(t, "", "token", "list", "--data-dir", dir)
		contains(t, "list", list, "revoked")
		if strings.Contains(list, token[20:]) {
			t.Error("the list shows the token")
		}
	}
	want(t, "", "token", "revoke", "--subject", "alice", "--data-dir", dir)
	contains(t, "list", want(t, "", "token", "list", "--data-dir", dir), "all of alice so far", "for ever", "SUBJECT")
	var list map[string][]map[string]any
	if err := json.NewDecoder(bytes.NewBufferString(want(t, "", "token", "list", "--json", "--data-dir", dir))).Decode(&list); err != nil {
		t.Fatal(err)
	}
	if len(list["static"]) != 1 || len(list["revoked"]) != 2 || list["static"][0]["state"] != "revoked" {
		t.Errorf("got %v, want a revoked static token and two revocations", list)
	}
	contains(t, "empty list", want(t, "", "token", "list", "--data-dir", t.TempDir()), "no static tokens")

	// What the holder gets after a revocation is good.
	again := want(t, "", "token", "create", "--subject", "alice", "--id", "x", "--data-dir", dir)
	contains(t, "inspect", want(t, again, "token", "inspect", "--data-dir", dir), "accepts it")
}
