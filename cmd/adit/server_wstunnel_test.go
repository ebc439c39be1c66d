package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// Clients of wstunnel, in both formats, stand for the IDs of their tokens at
// adit server, and others do not get in.
func TestServerTakesWstunnel(t *testing.T) {
	t.Parallel()
	const first, second = "first-rendez-vous-token", "second-rendez-vous-token"
	tokens := writeFile(t, "# ID token password\nweb "+first+"\ndb "+second+" pass:word\n")
	s := newCommand(t).start(t, "server", "--listen", "127.0.0.1:0", "--secret-file", writeFile(t, testSecret), "--wstunnel-token-file", tokens)
	url := "http://" + s.err.wait(t, `"server started","listen":"([^"]*)"`)
	local := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d %v %s", r.Method, r.RequestURI, len(body), err, r.Header.Get("X-Forwarded-Prefix"))
	}))
	defer local.Close()
	args := func(token string, more ...string) []string {
		return append([]string{"wstunnel", "cli", "-tunnel", strings.Replace(url, "http", "ws", 1), "-server", local.URL, "-token-file", writeFile(t, token+"\n")}, more...)
	}
	for _, tt := range []struct {
		id   string
		args []string
	}{
		{"web", args(first)},
		{"web", args(first, "-original-format")},
		{"db", args(second, "-password-file", writeFile(t, "pass:word\n"))},
	} {
		c := newCommand(t).start(t, tt.args...)
		c.out.wait(t, "WS   ready")
		s.err.wait(t, `"msg":"bound".*"id":"`+tt.id+`"`)
		want := "GET /a?b 0 <nil> /" + tt.id
		if got := get(t, url+"/"+tt.id+"/a?b"); got != want {
			t.Errorf("%v: got %q, want %q", tt.args, got, want)
		}
		for _, size := range []int{5, 200 << 10} {
			for _, body := range []io.Reader{strings.NewReader(strings.Repeat("x", size)), io.MultiReader(strings.NewReader(strings.Repeat("x", size)))} {
				resp, err := http.Post(url+"/"+tt.id+"/", "text/plain", body)
				if err != nil {
					t.Fatal(err)
				}
				text, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := fmt.Sprintf("POST / %d <nil> /%s", size, tt.id); string(text) != want {
					t.Errorf("%v: got %d %q, want %q", tt.args, resp.StatusCode, text, want)
				}
			}
		}
		c.stop()
	}
	for _, bad := range [][]string{args("none-of-these-rendez-vous-tokens"), args(second), args(second, "-password-file", writeFile(t, "wrong"))} {
		c := newCommand(t).start(t, bad...)
		c.out.wait(t, "401 Unauthorized: Invalid token or password")
		c.stop()
	}

	// A token is gone after the file was read again.
	if err := os.WriteFile(tokens, []byte("db "+second+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.hangups.tell()
	s.err.wait(t, `"msg":"reloaded"`)
	c := newCommand(t).start(t, args(first)...)
	c.out.wait(t, "401 Unauthorized")
	c.stop()
	for _, secret := range []string{first, second, "pass:word"} {
		if strings.Contains(s.err.String(), secret) {
			t.Errorf("%s is in the log", secret)
		}
	}
}

// Visitors of clients of wstunnel have to have a token, if the operator wants
// that.
func TestServerWstunnelViewers(t *testing.T) {
	t.Parallel()
	const token = "first-rendez-vous-token"
	key := writeFile(t, "a key for these viewers")
	s := newCommand(t).start(t, "server", "--listen", "127.0.0.1:0", "--secret-file", writeFile(t, testSecret),
		"--wstunnel-token-file", writeFile(t, "web "+token+"\n"), "--wstunnel-viewer-key-file", key)
	url := "http://" + s.err.wait(t, `"server started","listen":"([^"]*)"`)
	c := newCommand(t).start(t, "wstunnel", "cli", "-tunnel", strings.Replace(url, "http", "ws", 1), "-server", "http://"+site(t), "-token-file", writeFile(t, token))
	c.out.wait(t, "WS   ready")
	s.err.wait(t, `"msg":"bound".*"id":"web"`)
	code, out, errOut := call(t, nil, "token", "viewer", "--viewer-key-file", key, "--id", "web")
	if code != exitDone {
		t.Fatal(errOut)
	}
	for viewer, want := range map[string]int{"": 401, strings.TrimSpace(out): 200} {
		req, _ := http.NewRequest("GET", url+"/web/", nil)
		if viewer != "" {
			req.Header.Set("Authorization", "Bearer "+viewer)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("with token %v: got %d, want %d", viewer != "", resp.StatusCode, want)
		}
	}
}

// The flags of no use or with a wrong file are errors.
func TestServerWstunnelFlags(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--wstunnel-viewer-tokens"}, "of no use without --wstunnel-token-file"},
		{[]string{"--wstunnel-token-file", writeFile(t, "web")}, "token 1: want a line with an ID, a token"},
		{[]string{"--wstunnel-token-file", writeFile(t, "web short")}, "5 bytes: 16 to"},
		{[]string{"--wstunnel-token-file", writeFile(t, "we,b first-rendez-vous-token")}, "rendez-vous token 1"},
	} {
		code, _, errOut := call(t, nil, append([]string{"server", "--listen", "127.0.0.1:0", "--secret-file", writeFile(t, testSecret)}, tt.args...)...)
		if code != exitUsage || !strings.Contains(errOut, tt.want) || strings.Contains(errOut, "first-rendez") {
			t.Errorf("%v: got %d %q, want %q", tt.args, code, errOut, tt.want)
		}
	}
}
