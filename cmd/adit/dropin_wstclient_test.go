package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestWstClientTokensOnInput(t *testing.T) {
	t.Parallel()
	s, port := startWebsocktunnel(t, nil)
	in, tokens := io.Pipe()
	c := newCommand(t)
	c.in = in
	c.start(t, "wst-client", "http://127.0.0.1:"+port, "demo", "1", "--verbose")
	fmt.Fprintf(tokens, "\r\n%s\r\n", tunnelToken(t, "demo", nil))
	c.err.wait(t, "connected to websocktunnel")
	fmt.Fprintf(tokens, "%s", tunnelToken(t, "demo", map[string]any{"x": 1})) // without a line end
	tokens.Close()
	c.err.wait(t, "new token")
	c.err.wait(t, "standard input has ended")
	if code := c.stop(); code != exitDone {
		t.Errorf("exit code %d, want %d", code, exitDone)
	}
	s.stop()

	code, _, errOut := call(t, nil, "wst-client", "http://127.0.0.1:"+port, "demo", "1")
	if code != exitFailed || !strings.Contains(errOut, "level=fatal") || !strings.Contains(errOut, "standard input ended without a token") {
		t.Errorf("no token at all: exit code %d, %q", code, errOut)
	}
}

func TestWstClientUsage(t *testing.T) {
	t.Parallel()
	const token = "very.secret.token"
	for _, tt := range []struct {
		args string
		code int
		out  string
	}{
		{"", exitFailed, "Usage: wst-client"},
		{"http://x demo", exitFailed, "Usage: wst-client"},
		{"http://x demo 80 --token=" + token, exitFailed, "Usage: wst-client"},
		{"http://x demo 80 " + token + " more", exitFailed, "Usage: wst-client"},
		{"http://x demo 80 --what " + token, exitFailed, "Usage: wst-client"},
		{"http://x demo 65536 " + token, exitFailed, "targetPort=65536"},
		{"http://x demo http " + token, exitFailed, "targetPort=http"},
		{"ftp://x demo 80 " + token, exitFailed, "scheme"},
		{"--server-window=100 http://x demo 80 " + token, exitFailed, "4096 to 4194304"},
		{"--help", exitDone, "Usage: wst-client"},
		{"--version", exitDone, "wst-client "},
	} {
		code, out, errOut := call(t, nil, append([]string{"wst-client"}, strings.Fields(tt.args)...)...)
		if code != tt.code || !strings.Contains(out+errOut, tt.out) || strings.Contains(out+errOut, token) {
			t.Errorf("wst-client %s: exit code %d, %q%q; want %d and %q", tt.args, code, out, errOut, tt.code, tt.out)
		}
	}
	// Refused, with one attempt.
	attempts := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		attempts++
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer srv.Close()
	if code, _, errOut := call(t, nil, "wst-client", srv.URL, "demo", "80", token, "--json"); code != exitFailed || attempts != 1 || !strings.Contains(errOut, `"msg":"auth failed"`) || !strings.Contains(errOut, `"level":"fatal"`) {
		t.Errorf("refused: exit code %d after %d attempts, %s", code, attempts, errOut)
	}
	code, _, errOut := call(t, nil, "wst-client", srv.URL, "demo", "80", token, "--out-file=/nowhere/at/all")
	if code != exitFailed || strings.Contains(errOut, token) {
		t.Errorf("exit code %d, %q", code, errOut)
	}
}
