package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

func TestServerTakesWebsocktunnel(t *testing.T) {
	t.Parallel()
	secrets := writeFile(t, "test-secret-a\ntest-secret-b\n")
	key := writeFile(t, testSecret)
	s := newCommand(t).start(t, "server", "--listen", "127.0.0.1:0", "--secret-file", key, "--websocktunnel-secret-file", secrets, "--websocktunnel-owner", "secret")
	url := "http://" + s.err.wait(t, `"server started","listen":"([^"]*)"`)
	token := tunnelToken(t, "web", nil)
	theirs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("their site")) }))
	defer theirs.Close()
	_, port, _ := net.SplitHostPort(theirs.Listener.Addr().String())
	c := newCommand(t).start(t, "wst-client", url, "web", port, token)
	c.err.wait(t, "connected to websocktunnel")
	if got := get(t, url+"/web/"); got != "their site" {
		t.Errorf("got %q from the client of websocktunnel", got)
	}

	// An agent of adit shares the name, since the subject is the same.
	a := newCommand(t).start(t, "http", site(t), "--id", "web", "--server", strings.Replace(url, "http", "ws", 1), "--secret-file", key)
	a.out.wait(t, "/web/")
	met := map[string]bool{}
	for range 6 {
		met[get(t, url+"/web/")] = true
	}
	if !met["their site"] || !met["the site"] {
		t.Errorf("visitors met %v, want both agents", met)
	}

	// Another secret is in use after the file was read again.
	if err := os.WriteFile(secrets, []byte("another-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.hangups.tell()
	s.err.wait(t, `"msg":"reloaded"`)
	code, _, errOut := call(t, nil, "wst-client", url, "web", port, token)
	if code != exitFailed || !strings.Contains(errOut, "auth failed") {
		t.Errorf("with the old secret: exit code %d, %s", code, errOut)
	}
	if strings.Contains(s.err.String(), token) || strings.Contains(s.err.String(), "test-secret") {
		t.Error("what is secret shows in the log")
	}
}

// Viewers of clients of websocktunnel have to have a token, if the operator
// wants that.
func TestWebsocktunnelViewerTokens(t *testing.T) {
	t.Parallel()
	key := writeFile(t, "a key for these viewers")
	_, port := startWebsocktunnel(t, nil, "--viewer-key-file", key)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%v %v", r.URL, r.Header) }))
	defer upstream.Close()
	_, target, _ := net.SplitHostPort(upstream.Listener.Addr().String())
	server := "http://127.0.0.1:" + port
	c := newCommand(t).start(t, "wst-client", server, "De_mo", target, tunnelToken(t, "De_mo", nil))
	c.err.wait(t, "connected to websocktunnel")
	mint := func(args ...string) string {
		code, out, errOut := call(t, nil, append([]string{"token", "viewer", "--viewer-key-file", key}, args...)...)
		if code != exitDone {
			t.Fatal(errOut)
		}
		return strings.TrimSpace(out)
	}
	for _, tt := range []struct {
		name, path, token string
		want              int
	}{
		{"none", "/De_mo/x", "", 401},
		{"its token", "/De_mo/x", mint("--id", "De_mo"), 200},
		{"another's", "/De_mo/x", mint("--id", "demo"), 401},
		{"nobody there", "/demo/x", mint("--id", "demo"), 504},
	} {
		req, err := http.NewRequest("GET", server+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.token != "" {
			req.Header.Set("Authorization", "Bearer "+tt.token)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s: got %d %q, want %d", tt.name, resp.StatusCode, body, tt.want)
		}
		if tt.want == 401 && (string(body) != "Unauthorized\n" || !strings.HasPrefix(resp.Header.Get("Www-Authenticate"), "Bearer ")) {
			t.Errorf("%s: got %q and %v", tt.name, body, resp.Header)
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(httptest.NewRequest("GET", mint("--id", "De_mo", "--url", server+"/De_mo/a?b=c"), nil))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if cookie := resp.Header.Get("Set-Cookie"); resp.StatusCode/100 != 3 || resp.Header.Get("Location") != "/De_mo/a?b=c" || !strings.Contains(cookie, "Path=/De_mo/") {
		t.Errorf("a link: got %d, %v", resp.StatusCode, resp.Header)
	}

	// The upstream sees no token, whichever way it came and whichever way the
	// server takes the request.
	token := mint("--id", "De_mo")
	for _, field := range []string{"Adit-Viewer: " + token, "Authorization: Bearer " + token, "Cookie: a=b; adit-viewer=" + token} {
		for _, before := range []string{"", "GET /__heartbeat__ HTTP/1.1\r\nHost: x\r\n\r\n"} {
			conn, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if before != "" {
				askOn(t, conn, before)
			}
			answer := askOn(t, conn, "GET /De_mo/x HTTP/1.1\r\nHost: x\r\n"+field+"\r\n\r\n")
			if !strings.HasPrefix(answer, "HTTP/1.1 200") || !strings.Contains(answer, "/x map[") || strings.Contains(answer, token) || strings.Contains(field, "a=b") && !strings.Contains(answer, "Cookie:[a=b]") {
				t.Errorf("%.20s after %q: got %s", field, before, answer)
			}
		}
	}
}
