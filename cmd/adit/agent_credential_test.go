package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/internal/testca"
)

// mint returns a token of a server with testSecret.
func mint(t *testing.T, id string, left time.Duration) string {
	t.Helper()
	secret, err := auth.ParseSecret(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	token, err := auth.Mint(secret, auth.TokenClaims{ID: id, Subject: "me", Expires: time.Now().Add(left), Scope: auth.Scope{IDs: []string{"web"}}})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// refreshed waits until the server has taken a token for a live session.
func (c *command) refreshed(t *testing.T, id string) {
	t.Helper()
	c.err.wait(t, `"credential refreshed"[^\n]*"token":"`+id+`"`)
}

func TestTokenFileIsReplaced(t *testing.T) {
	t.Parallel()
	server, url := startServer(t)
	path := writeFile(t, mint(t, "one", time.Hour))
	a := newCommand(t).start(t, "http", site(t), "--id", "web", "--server", url, "--secret-file", path)
	web := a.out.wait(t, `(http://\S+) +->`)
	for _, step := range []struct{ content, refreshed string }{
		{"", ""}, // as it is while it is being written
		{mint(t, "two", time.Hour), "two"},
		{mint(t, "three", time.Hour), "three"},
	} {
		if err := os.WriteFile(path, []byte(step.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if step.refreshed != "" {
			server.refreshed(t, step.refreshed)
		}
	}
	if got := get(t, web); got != "the site" {
		t.Errorf("got %q from the tunnel", got)
	}
	if n := strings.Count(server.err.String(), `"agent connected"`); n != 1 {
		t.Errorf("the agent connected %d times, want once", n)
	}
}

func TestTokensOnStandardInput(t *testing.T) {
	t.Parallel()
	server, url := startServer(t)
	r, w := io.Pipe()
	a := newCommand(t)
	a.in = r
	a.start(t, "http", site(t), "--id", "web", "--server", url, "--token-stdin", "--log-level", "info")
	a.err.wait(t, "waiting for a token on standard input")
	fmt.Fprintf(w, "\n%s\n", mint(t, "one", time.Hour))
	a.out.wait(t, `(http://\S+) +->`)
	fmt.Fprintf(w, "%s\n", mint(t, "two", time.Hour))
	server.refreshed(t, "two")
	fmt.Fprintf(w, "not a token at all\n%s\n", mint(t, "three", time.Hour))
	server.refreshed(t, "three")
	w.Close() // the last one stays
	if code := a.stop(); code != exitDone {
		t.Errorf("got exit code %d, want %d", code, exitDone)
	}
	if n := strings.Count(server.err.String(), `"agent connected"`); n != 1 {
		t.Errorf("the agent connected %d times, want once", n)
	}

	for name, input := range map[string]string{"nothing": "", "empty lines": "\n\n", "too long a line": strings.Repeat("x", 1<<20)} {
		c := newCommand(t)
		c.in = strings.NewReader(input)
		c.start(t, "http", "3000", "--id", "web", "--server", url, "--token-stdin")
		if code := <-c.code; code != exitFailed {
			t.Errorf("%s: got exit code %d, want %d", name, code, exitFailed)
		} else {
			c.code <- code
		}
		if name != "too long a line" {
			contains(t, name, c.err.String(), "without a token")
		}
	}
}

// script writes a shell script and returns the command that runs it.
func script(t *testing.T, lines ...string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs a shell of Unix")
	}
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+strings.Join(lines, "\n")+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTokenCommand(t *testing.T) {
	t.Parallel()
	server, url := startServer(t)
	tokens := t.TempDir()
	put := func(token string) {
		if err := os.WriteFile(filepath.Join(tokens, "token.new"), []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(tokens, "token.new"), filepath.Join(tokens, "token")); err != nil {
			t.Fatal(err)
		}
	}
	put(mint(t, "one", 2*time.Second)) // replaced a second before its end
	command := script(t, `echo "marked noise" >&2`, `env | grep -q ^ADIT_ && exit 7`, "cat "+tokens+"/token")
	a := newCommand(t, "ADIT_LOG_LEVEL=debug").start(t, "http", site(t), "--id", "web", "--server", url, "--token-command", command)
	a.out.wait(t, `(http://\S+) +->`)
	put(mint(t, "two", time.Hour))
	server.refreshed(t, "two")

	// What is refused is asked for again.
	want(t, "", "token", "revoke", "--file", writeFile(t, mint(t, "two", time.Hour)), "--data-dir", filepath.Join(server.home(), ".local/state/adit"))
	a.out.wait(t, `(the credential was revoked)`)
	put(mint(t, "four", time.Hour))
	server.err.wait(t, `"agent connected"[^\n]*"token":"four"`)
	a.stop()
	for _, text := range []string{a.out.String(), a.err.String()} {
		for _, secret := range []string{"marked noise", tokens} {
			if strings.Contains(text, secret) {
				t.Errorf("%q shows in %q", secret, text)
			}
		}
	}
}

// home is the command's home directory.
func (c *command) home() string { return c.getenv("HOME") }

func TestTokenCommandFails(t *testing.T) {
	t.Parallel()
	secret := "marked-0123456789"
	for _, tt := range []struct{ name, command, want string }{
		{"exit status", script(t, "echo "+secret, "echo "+secret+" >&2", "exit 3"), "exit status 3"},
		{"no output", script(t, "exit 0"), "no token"},
		{"several lines", script(t, "echo "+secret, "echo "+secret), "more than a token"},
		{"too much", script(t, "yes "+secret+" | head -c 100000 | tr -d '\\n'"), "no token"},
		{"control characters", script(t, `printf 'marked-\033[31m0123456789'`), "more than a token"},
		{"no such command", "/nonexistent/" + secret, "exit status 127"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &commandSource{command: tt.command, environ: os.Environ()}
			token, err := s.token()
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("got %d bytes and %v, want an error with %q and without what was printed", len(token), err, tt.want)
			}
			// It is not run again at once.
			if _, err := s.token(); err == nil || !strings.Contains(err.Error(), "just failed") {
				t.Errorf("at once again: got %v, want no run", err)
			}
		})
	}
}

func TestTokenCommandRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := &commandSource{command: script(t, "echo x >> "+dir+"/runs", "cat "+dir+"/token", "test -e "+dir+"/fail && exit 1; exit 0"), environ: os.Environ()}
	runs := func() int {
		b, _ := os.ReadFile(dir + "/runs")
		return strings.Count(string(b), "x")
	}
	put := func(token string) {
		if err := os.WriteFile(dir+"/token", []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what, want string, n int) {
		t.Helper()
		if got, err := s.token(); err != nil || got != want || runs() != n {
			t.Errorf("%s: got the right token %v, %v after %d runs, want it after %d", what, got == want, err, runs(), n)
		}
	}
	one, two := mint(t, "one", time.Hour), mint(t, "two", -time.Second)
	put(one)
	expect("at first", one, 1)
	expect("again", one, 1)
	s.refused() // it has just run
	expect("refused at once", one, 1)
	s.ran = s.ran.Add(-time.Minute)
	put(two)
	s.refused()
	expect("refused", two, 2)
	expect("expired", two, 3)
	if err := os.WriteFile(dir+"/fail", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect("expired, and the command fails", two, 4)
	expect("at once again", two, 4)

	// A command that hangs is ended with all that it has started.
	pid := filepath.Join(dir, "pid")
	h := &commandSource{command: "sleep 1000 & echo $! > " + pid + "; wait", environ: os.Environ()}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := h.next(ctx, mint(t, "old", -time.Second))
		done <- err
	}()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if b, _ := os.ReadFile(pid); strings.HasSuffix(string(b), "\n") {
			break
		}
		if time.Since(began) > patience {
			t.Fatal("the command does not run")
		}
	}
	cancel()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("next goes on after its end")
	}
	b, _ := os.ReadFile(pid)
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Since(began) > patience {
			t.Fatal("what the command has started goes on")
		}
	}
}

// selfSigned writes a certificate with its key into a file.
func selfSigned(t *testing.T, path, cn string) {
	t.Helper()
	c, key := testca.PEM(t, testca.Sign(t, x509.Certificate{Subject: pkix.Name{CommonName: cn}}, nil))
	text := append(c, key...)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestCertificateSource(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "agent.pem")
	selfSigned(t, path, "one")
	f := credentialFlags{cert: path}
	c, err := f.open(&newCommand(t).program, "wss://tunnel.example.com")
	if err != nil || c.token != nil {
		t.Fatalf("got %v, want a certificate and no token", err)
	}
	var o agent.Options
	c.apply(&o)
	first, err := o.TLS.GetClientCertificate(&tls.CertificateRequestInfo{})
	if err != nil {
		t.Fatal(err)
	}
	changed := make(chan error, 1)
	go func() { changed <- o.NextCertificate(t.Context()) }()
	if err := os.WriteFile(path, []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := o.TLS.GetClientCertificate(&tls.CertificateRequestInfo{}); err != nil || again != first {
		t.Errorf("while the file is no good: got %v, want the old certificate", err)
	}
	selfSigned(t, path, "two")
	if err := <-changed; err != nil {
		t.Error(err)
	}
	if second, err := o.TLS.GetClientCertificate(&tls.CertificateRequestInfo{}); err != nil || second.Leaf.Subject.CommonName != "two" {
		t.Errorf("got %v, want the new certificate", err)
	}

	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := f.open(&newCommand(t).program, "wss://tunnel.example.com"); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key for all to read: got %v, want an error", err)
	}
}
