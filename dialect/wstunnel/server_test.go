package wstunnel

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"adit/tunnel"
)

// askWith sends one request with header fields and returns status and body.
func askWith(t *testing.T, method, url, host string, header http.Header) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host, req.Header = host, header.Clone()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// A token is found in the path, in X-Token, and in Host, in this order, and only
// if somebody has it.
func TestWhereTokensAre(t *testing.T) {
	t.Parallel()
	const other = "another-token-of-16-bytes"
	_, addr := startServer(t, ServerOptions{})
	for _, token := range []string{testToken, other} {
		local := startLocal(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, token, " ", r.RequestURI) })
		startClient(t, ClientOptions{Tunnel: "ws://" + addr, Token: token, Server: local.URL})
		waitFor(t, "the client", func() bool {
			code, _ := askWith(t, "GET", "http://"+addr+"/", "", http.Header{"X-Token": {token}})
			return code == 200
		})
	}
	for _, tt := range []struct {
		path, xtoken, host string
		code               int
		want               string
	}{
		{"/_token/" + testToken + "/a?b", other, other + ".example.com", 200, testToken + " /a?b"},
		{"/a?b", other, testToken + ".example.com", 200, other + " /a?b"},
		{"/a?b", "", other + ".example.com", 200, other + " /a?b"},
		{"/a%2fb?", "", other + ".example.com:8080", 200, other + " /a%2fb?"},
		{"/", "", other, 400, "Missing X-Token header\n"},
		{"/", "", "www." + other, 400, "Missing X-Token header\n"},
		{"/", "", "short.example.com", 400, "Missing X-Token header\n"},
		{"/", "short", "h", 404, "Tunnel not found (or not seen in a long time)\n"},
		{"/_token/short/", "", "h", 404, "Tunnel not found (or not seen in a long time)\n"},
		{"/_token/" + testToken, "", "h", 400, "Missing token in URI\n"},
		{"/%5ftoken/" + testToken + "/", "", "h", 400, "Missing token in URI\n"},
	} {
		header := http.Header{}
		if tt.xtoken != "" {
			header.Set("X-Token", tt.xtoken)
		}
		if code, got := askWith(t, "GET", "http://"+addr+tt.path, tt.host, header); code != tt.code || got != tt.want {
			t.Errorf("%s with X-Token %q and Host %q: got %d %q, want %d %q", tt.path, tt.xtoken, tt.host, code, got, tt.code, tt.want)
		}
	}
}

// Only who is on this machine and was not forwarded sees more than the number of
// tunnels, and nobody a whole token.
func TestStats(t *testing.T) {
	t.Parallel()
	s, addr := startServer(t, ServerOptions{LookupAddr: func(_ context.Context, addr string) ([]string, error) {
		return []string{"host-of\n-" + addr}, nil
	}})
	p, _ := dialPeer(t, addr, strings.Replace(originalHandshake(testToken), "Origin:", "X-Forwarded-For: 192.0.2.9\r\nOrigin:", 1))
	defer p.close()
	tun, _ := s.Tunnel(testToken)
	waitFor(t, "the name", func() bool { tun.mu.Lock(); defer tun.mu.Unlock(); return tun.name != "" })
	const little = "tunnels=1\nMore stats available when called from localhost...\n"
	for _, tt := range []struct {
		remote, field string
		more          bool
	}{
		{"127.0.0.1:5", "", true},
		{"[::1]:5", "", true},
		{"192.0.2.1:5", "", false},
		{"192.0.2.1:5", "X-Forwarded-For", false},
		{"127.0.0.1:5", "X-Forwarded-For", false},
		{"127.0.0.1:5", "Forwarded", false},
		{"127.0.0.1:5", "X-Real-Ip", false},
	} {
		r := httptest.NewRequest("GET", "/_stats", nil)
		r.RemoteAddr = tt.remote
		if tt.field != "" {
			r.Header.Set(tt.field, "127.0.0.1")
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		got := w.Body.String()
		if strings.Contains(got, testToken) || (got != little) != tt.more {
			t.Errorf("from %s with %q: got %q", tt.remote, tt.field, got)
		}
		for _, line := range []string{"tunnel00_token=golden_t...\n", "tunnel00_tun_addr=192.0.2.9\n", "tunnel00_tun_dns=host-of-192.0.2.9\n", "tunnel00_idle_secs=0.", "req_pending=0\n", "dead_tunnels=0\n"} {
			if strings.Contains(got, line) != tt.more {
				t.Errorf("from %s with %q: got %q, with %q in it: want %v", tt.remote, tt.field, got, line, tt.more)
			}
		}
	}
}

// Passwords in the form and with the texts of the original's continuation, and
// the limit of clients.
func TestPasswords(t *testing.T) {
	t.Parallel()
	const colon = "token:with:colons-inside"
	_, addr := startServer(t, ServerOptions{Passwords: map[string]string{testToken: "pass:word", colon: "p"}, MaxClients: 1})
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, tt := range []struct {
		token, authorization string
		code                 int
		want                 string
	}{
		{testToken, "", 401, "Authorization required for this token\n"},
		{testToken, "Bearer x", 401, "Invalid authorization type (must be Basic)\n"},
		{testToken, "Basic !", 401, "Invalid authorization encoding\n"},
		{testToken, basic("nothing"), 401, "Invalid authorization format\n"},
		{testToken, basic(testToken + ":wrong"), 401, "Invalid token or password\n"},
		{testToken, basic(testToken + ":"), 401, "Invalid token or password\n"},
		{testToken, basic("other:pass:word"), 401, "Invalid token or password\n"},
		{testToken, basic(testToken + ":pass:word"), 101, ""},
		{testToken, basic(testToken + ":pass:word"), 429, "Maximum number of clients (1) reached for this token\n"},
		{colon, basic(colon + ":p"), 101, ""},
		{"a-token-without-password", "", 101, ""},
	} {
		r := strings.Replace(originalHandshake(tt.token), "Origin:", "Authorization: "+tt.authorization+"\r\nOrigin:", 1)
		p, head := dialPeer(t, addr, r)
		if !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", tt.code)) {
			t.Errorf("%s with %q: got %q, want %d", tt.token, tt.authorization, head, tt.code)
		}
		if tt.code == 401 && !strings.Contains(head, "\r\nWww-Authenticate: Basic realm=\"wstunnel\"\r\n") {
			t.Errorf("%s with %q: no challenge in %q", tt.token, tt.authorization, head)
		}
		if tt.code != 101 {
			text := make([]byte, len(tt.want))
			io.ReadFull(p.br, text)
			if string(text) != tt.want {
				t.Errorf("%s with %q: got %q, want %q", tt.token, tt.authorization, text, tt.want)
			}
		}
	}
}

// A client of ours sends its password, and the user of the address beside it, to
// a server below a base path.
func TestClientCredentials(t *testing.T) {
	t.Parallel()
	local := startLocal(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	s := NewServer(ServerOptions{Passwords: map[string]string{testToken: "password"}, BasePath: "/base"})
	defer s.Close()
	seen := make(chan http.Header, 1)
	front := startLocal(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/_tunnel") {
			seen <- r.Header.Clone()
		}
		s.ServeHTTP(w, r)
	})
	stop := startClient(t, ClientOptions{
		Tunnel: strings.Replace(front.URL, "http://", "ws://user:pw@", 1) + "/base/", Token: testToken, Password: "password", Server: local.URL,
	})
	defer stop()
	h := <-seen
	for field, want := range map[string]string{"Authorization": testToken + ":password", "X-Tunnel-Authorization": "user:pw"} {
		if got, want := h.Get(field), "Basic "+base64.StdEncoding.EncodeToString([]byte(want)); got != want {
			t.Errorf("%s: got %q, want %q", field, got, want)
		}
	}
	waitFor(t, "an answer", func() bool {
		code, text := askWith(t, "GET", front.URL+"/base/_token/"+testToken+"/x", "", nil)
		return code == 200 && text == "/x"
	})
	for path, want := range map[string]int{"/base/_health_check": 200, "/_health_check": 404, "/basement/_health_check": 404} {
		if code, _ := askWith(t, "GET", front.URL+path, "", nil); code != want {
			t.Errorf("%s: got %d, want %d", path, code, want)
		}
	}
}

// What Admit refuses reaches no client.
func TestAdmit(t *testing.T) {
	t.Parallel()
	ids := make(chan tunnel.ID, 1)
	s, addr := startServer(t, ServerOptions{Admit: func(r *http.Request, id tunnel.ID) error {
		ids <- id
		if r.Header.Get("Pass") == "" {
			return &StatusError{Code: 401, Text: "No", Challenge: "Bearer"}
		}
		r.Header.Del("Pass")
		return nil
	}})
	p, _ := dialPeer(t, addr, originalHandshake(testToken))
	if code, text := get(t, addr, "/"); code != 401 || text != "No\n" {
		t.Errorf("got %d %q", code, text)
	}
	tun, _ := s.Tunnel(testToken)
	if id := <-ids; id != tun.ID() {
		t.Errorf("asked about %s, want %s", id, tun.ID())
	}
	answer := make(chan int, 1)
	go func() {
		code, _ := askWith(t, "GET", "http://"+addr+"/_token/"+testToken+"/", "", http.Header{"Pass": {"x"}})
		answer <- code
	}()
	m := p.message()
	if strings.Contains(m, "Pass:") {
		t.Errorf("the client got %q", m)
	}
	p.send(m[:idSize] + okAnswer)
	if code := <-answer; code != 200 {
		t.Errorf("got %d", code)
	}
}

func TestWithoutUser(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                       "",
		"http://h:1":             "http://h:1",
		"http://user:p@ss@h:1/x": "http://[redacted]@h:1/x",
		"user:pass@h":            "[redacted]@h",
	} {
		if got := withoutUser(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
