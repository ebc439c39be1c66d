package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// secretFile writes a file that only this user may read.
func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// curl runs curl against a tunnel, with the server under the tunnel's name, and
// returns the status followed by the body.
func (s *server) curl(t *testing.T, id, path string, args ...string) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(s.addr)
	all := append([]string{
		"-s", "-S", "--max-time", "20", "-o", "-", "-w", "\n%{http_code}",
		"--resolve", fmt.Sprintf("%s.%s:%s:127.0.0.1", id, domain, port),
	}, args...)
	out := run(t, 30*time.Second, need(t, "curl"), append(all, s.hostURL(id)+path)...)
	body, status, _ := cutLast(out, "\n")
	return status + " " + body
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// startGuarded starts a server and an agent for the tunnel "web" with more
// arguments, and waits until the tunnel answers in any way.
func startGuarded(t *testing.T, upstream string, env []string, args ...string) (*server, *process) {
	t.Helper()
	s := startServer(t, "--log-level", "debug")
	c := aditCommand(append([]string{binary, "http", upstream, "--id", "web", "--log-level", "debug",
		"--server", "ws://" + s.addr, "--secret-file", s.secret}, args...))
	c.Env = append(c.Env, "XDG_STATE_HOME="+s.dir)
	c.Env = append(c.Env, env...)
	a := start(t, "agent", c)
	a.waitLog(t, "a URL", 20*time.Second, func(log string) bool { return strings.Contains(log, "web."+domain) })
	return s, a
}

// A password file of Apache's own tool, and what curl makes of it.
func TestPasswordsOfHtpasswd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "logins")
	run(t, 20*time.Second, need(t, "htpasswd"), "-c", "-b", "-B", path, "alice", "s3same-marked")
	run(t, 20*time.Second, need(t, "htpasswd"), "-b", "-B", "-C", "10", path, "zoë", "pass:wörd")
	var mu sync.Mutex
	var seen []string
	s, a := startGuarded(t, upstream(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Header.Get("Authorization"))
		io.WriteString(w, "inside")
	}), nil, "--basic-auth-file", path)
	for _, tt := range []struct{ user, want string }{
		{"", "401 "}, {"alice:s3same-marked", "200 inside"}, {"zoë:pass:wörd", "200 inside"},
		{"alice:wrong", "401 "}, {"bob:s3same-marked", "401 "}, {"alice:", "401 "},
	} {
		var args []string
		if tt.user != "" {
			args = []string{"-u", tt.user}
		}
		if got := s.curl(t, "web", "/", args...); !strings.HasPrefix(got, tt.want) {
			t.Errorf("as %q: got %q, want %q", tt.user, got, tt.want)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 2 || seen[0]+seen[1] != "" {
		t.Errorf("the upstream saw %q, want two requests without Authorization", seen)
	}
	logins, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, hash, _ := strings.Cut(strings.SplitN(string(logins), "\n", 2)[0], "$2y$05$")
	mentions(t, []*process{s.process, a}, "s3same-marked", hash)
}

// mentions fails the test for each secret that is in what processes have
// printed, or in their arguments.
func mentions(t *testing.T, processes []*process, secrets ...string) {
	t.Helper()
	for _, p := range processes {
		log, _ := p.log.read()
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range secrets {
			if secret == "" {
				t.Fatal("no secret to look for")
			}
			if strings.Contains(log, secret) {
				t.Errorf("the %s logs %q", p.name, secret)
			}
			if strings.Contains(string(args), secret) {
				t.Errorf("%q is among the arguments of the %s", secret, p.name)
			}
		}
	}
}

// A body over the limit does not reach the upstream whole, whether its length is
// announced or not, and an upload that waits for 100 Continue is not begun.
func TestLongUploadIsCutOff(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(path, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	whole := make(chan string, 10)
	s, _ := startGuarded(t, upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if n, err := io.Copy(io.Discard, r.Body); err == nil {
			whole <- fmt.Sprint(n)
		}
	}), nil, "--max-body", "1MiB")
	for _, args := range [][]string{
		{"-T", path},
		{"-T", path, "-H", "Transfer-Encoding: chunked"},
		{"-T", path, "-H", "Expect: 100-continue"},
	} {
		if got := s.curl(t, "web", "/", args...); !strings.HasPrefix(got, "413 ") || !strings.Contains(got, "body-too-large") {
			t.Errorf("%q: got %q, want 413", args[2:], got)
		}
	}
	if got := s.curl(t, "web", "/", "-d", "short"); got != "200 " {
		t.Errorf("a short body: got %q, want 200", got)
	}
	if got := <-whole; got != "5" || len(whole) > 0 {
		t.Errorf("the upstream got whole bodies of %s bytes and %d others, want 5 and none", got, len(whole))
	}
}

// The link of adit token viewer in a real browser: it ends at the page, without
// the token in the address, and with a cookie that scripts do not see.
func TestViewerLinkInChromium(t *testing.T) {
	t.Parallel()
	chromium := need(t, "chromium")
	page := `<body><script>document.body.textContent = "address " + location.href + " cookies [" + document.cookie + "]"</script></body>`
	s, a := startGuarded(t, upstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if c := r.Header.Get("Cookie"); c != "" {
			fmt.Fprintf(w, "the upstream sees %s", c)
			return
		}
		io.WriteString(w, page)
	}), nil, "--viewer-tokens")
	token := func(args ...string) string {
		c := aditCommand(append([]string{binary, "token", "viewer", "--id", "web"}, args...))
		c.Env = append(c.Env, "XDG_STATE_HOME="+s.dir)
		out, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	link := token("--url", s.hostURL("web")+"/page?x=1")
	browse := func(url string) string {
		return run(t, time.Minute, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir="+t.TempDir(),
			"--host-resolver-rules=MAP * 127.0.0.1", "--dump-dom", url)
	}
	if got, want := browse(link), "address "+s.hostURL("web")+"/page?x=1 cookies []"; !strings.Contains(got, want) {
		t.Errorf("the browser shows %s, want %q", got, want)
	}
	if got := browse(s.hostURL("web") + "/page"); !strings.Contains(got, "viewer-token-required") {
		t.Errorf("without the link the browser shows %s", got)
	}
	bare := token()
	if got := s.curl(t, "web", "/", "-H", "Authorization: Bearer "+bare); !strings.HasPrefix(got, "200 ") {
		t.Errorf("with the token alone: got %q", got)
	}
	_, inLink, _ := strings.Cut(link, "adit-viewer=")
	inLink, _, _ = strings.Cut(inLink, "&")
	key, err := os.ReadFile(filepath.Join(s.dir, "adit", "viewers", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	mentions(t, []*process{s.process, a}, bare, inLink, strings.TrimSpace(string(key)))
}

// The last lines of docs/requests.md, as they stand there: a webhook signed with
// openssl.
func TestWebhookOfDocs(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	need(t, "curl")
	doc, err := os.ReadFile("../docs/requests.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(doc), "To see it work:\n\n```sh\n")
	script, _, ok := strings.Cut(script, "```")
	if !ok {
		t.Fatal("docs/requests.md has no such lines")
	}
	const secret = "a-marked-secret-of-webhooks"
	for name, env := range map[string][]string{"file": nil, "environment": {"ADIT_WEBHOOK_SECRET=" + secret}} {
		got := make(chan string, 1)
		args := []string{"--verify-webhook", "github"}
		if env == nil {
			args = append(args, "--webhook-secret-file", secretFile(t, "an older secret of webhooks\n"+secret+"\n"))
		}
		s, a := startGuarded(t, upstream(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got <- string(b)
		}), env, args...)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "github.secret"), []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		lines := strings.ReplaceAll(script, "https://web.tunnel.example.com/", s.hostURL("web")+"/")
		_, port, _ := net.SplitHostPort(s.addr)
		lines = strings.ReplaceAll(lines, "curl ", fmt.Sprintf("curl -s -S -f --resolve web.%s:%s:127.0.0.1 ", domain, port))
		run(t, 30*time.Second, "sh", "-e", "-c", "cd "+dir+"\n"+lines)
		if body := <-got; body != `{"hello":"world"}` {
			t.Errorf("%s: the upstream got %q", name, body)
		}
		if answer := s.curl(t, "web", "/", "-d", "not signed"); !strings.HasPrefix(answer, "401 ") || !strings.Contains(answer, "signature-missing") {
			t.Errorf("%s: not signed: got %q, want 401", name, answer)
		}
		if answer := s.curl(t, "web", "/", "-d", "x", "-H", "X-Hub-Signature-256: sha256=00"); !strings.HasPrefix(answer, "403 ") || !strings.Contains(answer, "signature-invalid") {
			t.Errorf("%s: signed by nobody: got %q, want 403", name, answer)
		}
		if len(got) > 0 {
			t.Errorf("%s: the upstream saw %q too", name, <-got)
		}
		mentions(t, []*process{s.process, a}, secret)
	}
}

// TCP visitors are kept out by a reset, and nothing of them reaches the
// upstream.
func TestTCPVisitorIsKeptOut(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	port := freePort(t)
	s := startServer(t, "--tcp-ports", port)
	a := s.agent(t, "tcp", ln.Addr().String(), "--id", "raw", "--port", port, "--deny-ip", "127.0.0.0/8")
	a.waitLog(t, "a URL", 20*time.Second, func(log string) bool { return strings.Contains(log, "tcp://") })
	for range 3 {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue // the reset was that quick
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if b, err := io.ReadAll(c); err == nil {
			t.Errorf("the conn ended in an orderly way with %q, want a reset", b)
		}
		c.Close()
	}
	ln.(*net.TCPListener).SetDeadline(time.Now())
	if c, err := ln.Accept(); err == nil {
		c.Close()
		t.Error("the upstream was reached")
	}
}
