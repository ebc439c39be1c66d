package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// marks are secrets by name that must not show anywhere.
type marks map[string]string

// newMark makes up a secret.
func (m marks) newMark(name string) string {
	m[name] = "marked-" + rand.Text()
	return m[name]
}

// find returns where a secret, or a part of it, shows in text.
func (m marks) find(text string) (found []string) {
	for name, secret := range m {
		for _, part := range append(strings.FieldsFunc(secret, func(r rune) bool { return r == '.' || r == '_' }), secret) {
			// The header of a JWT says nothing, and short parts are words.
			if len(part) < 20 || strings.HasPrefix(part, "eyJhbGci") {
				continue
			}
			if at := strings.Index(text, part); at >= 0 {
				found = append(found, fmt.Sprintf("the %s shows behind %q", name, text[max(0, at-120):at]))
				break
			}
		}
	}
	return found
}

// A keyholder signs tokens with a key of its own, as a CI system does.
type keyholder struct {
	key ed25519.PrivateKey
	set string // file with the key set
}

func newKeyholder(t *testing.T, dir string) *keyholder {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k := &keyholder{key, filepath.Join(dir, "jwks.json")}
	set := fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":%q}]}`, base64.RawURLEncoding.EncodeToString(pub))
	if err := os.WriteFile(k.set, []byte(set), 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *keyholder) sign(t *testing.T, exp time.Time, ids ...string) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{"iss": "ci", "aud": "adit", "sub": "robot", "exp": exp.Unix(), "adit": map[string]any{"ids": ids}})
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	text := b64([]byte(`{"alg":"EdDSA","kid":"k"}`)) + "." + b64(claims)
	return text + "." + b64(ed25519.Sign(k.key, []byte(text)))
}

// TestSecretsShowNowhere runs a server and agents with credentials of every
// kind, makes them fail in many ways, and looks for the credentials in all that
// they print and in the list of processes.
func TestSecretsShowNowhere(t *testing.T) {
	t.Parallel()
	need(t, "go")
	dir := t.TempDir()
	m := marks{}
	private := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	private("data/secret", m.newMark("secret"))
	private("data/admin-token", m.newMark("admin token"))
	old := private("old", m.newMark("old secret"))
	ci := newKeyholder(t, dir)

	var seen strings.Builder // all that there is to see
	var processes []*process
	look := func(what string, text string) { fmt.Fprintf(&seen, "\n--- %s\n%s", what, text) }
	cmdline := func(p *process) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		if err == nil {
			look("cmdline of "+p.name, string(b))
		}
	}

	// adit runs the program to its end.
	adit := func(stdin string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		c := aditCommand(append([]string{binary}, args...))
		c.Stdin = strings.NewReader(stdin)
		var errOut strings.Builder
		c.Stderr = &errOut
		out, err := c.Output()
		if ctx.Err() != nil {
			t.Fatalf("adit %v hangs", args)
		}
		look("errors of adit "+args[0], errOut.String())
		if err != nil || args[0] != "token" || args[1] != "create" {
			look("output of adit "+args[0], string(out))
		}
		return strings.TrimSpace(string(out))
	}
	create := func(name string, args ...string) string {
		t.Helper()
		m[name] = adit("", append([]string{"token", "create", "--data-dir", data}, args...)...)
		if m[name] == "" {
			t.Fatalf("no token: %s", seen.String())
		}
		return m[name]
	}
	jwt := create("jwt", "--id", "jwt", "--subject", "jwt")
	static := create("static token", "--id", "static", "--type", "static", "--subject", "static")
	revoked := create("revoked token", "--id", "revoked", "--type", "static")
	short := create("short token", "--id", "short", "--ttl", "1s", "--subject", "short")
	m["issued token"] = ci.sign(t, time.Now().Add(time.Hour), "issued")
	m["expired token"] = ci.sign(t, time.Now().Add(-time.Hour), "issued")
	m["unsigned token"] = withSignature(jwt, "c2lnbmF0dXJlLXRoYXQtaXMtbm9uZS1hdC1hbGwtaW4tdGhlLXdvcmxk")
	wrong := m.newMark("wrong secret")

	s := &server{addr: "127.0.0.1:" + freePort(t), dir: dir}
	admin := "127.0.0.1:" + freePort(t)
	s.args = []string{binary, "server", "--listen", s.addr, "--domain", domain, "--data-dir", data, "--old-secret-file", old, "--log-level", "debug",
		"--jwks", ci.set, "--jwt-issuer", "ci", "--jwt-audience", "adit", "--admin", admin, "--grace", "1s"}
	s.start(t)
	processes = append(processes, s.process)
	waitAccepts(t, s.process, s.addr)

	up := upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "the site") })
	agent := func(id, env, stdin string, args ...string) *process {
		t.Helper()
		c := aditCommand(slices.Concat([]string{binary, "http", up, "--id", id, "--server", "ws://" + s.addr, "--log-level", "debug"}, args))
		if env != "" {
			c.Env = append(c.Env, "ADIT_TOKEN="+env)
		}
		if stdin != "" {
			c.Stdin = strings.NewReader(stdin)
		}
		p := start(t, "agent "+id, c)
		processes = append(processes, p)
		return p
	}
	// Those who get in.
	for _, a := range []*process{
		agent("secret", m["secret"], ""),
		agent("old", m["old secret"], ""),
		agent("jwt", jwt, ""),
		agent("static", "", "", "--secret-file", private("static", static)),
		agent("issued", "", m["issued token"]+"\n", "--token-stdin"),
		agent("short", "", "", "--token-command", "sh "+private("short.sh", "echo "+m.newMark("noise of a command")+" >&2; cat "+private("short", short))),
		agent("revoked", "", "", "--secret-file", private("revoked", revoked)),
	} {
		a.waitLog(t, "its address", 20*time.Second, func(log string) bool { return strings.Contains(log, "  ->  ") })
		cmdline(a)
	}
	// Those who don't.
	for _, a := range []*process{
		agent("w1", wrong, ""),
		agent("w2", m["expired token"], ""),
		agent("w3", m["unsigned token"], ""),
		agent("w4", jwt, ""), // an ID that it does not allow
		agent("w5", "", "", "--token-command", "sh "+private("wrong.sh", "echo "+wrong+"; exit 3")),
		agent("w6", "", wrong+" and more\n", "--token-stdin"),
	} {
		a.waitLog(t, "a refusal", 20*time.Second, func(log string) bool {
			return strings.Contains(log, "refused") || strings.Contains(log, "does not allow") || strings.Contains(log, "adit: ") || strings.Contains(log, "waiting for the server")
		})
		cmdline(a)
	}
	cmdline(s.process)

	// Tokens where they don't belong.
	for _, secret := range []string{m["secret"], jwt, static, wrong, m["issued token"]} {
		for _, change := range []func(*http.Request){
			func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret+"x") },
			func(r *http.Request) { r.Header.Set("Authorization", "Basic "+secret) },
			func(r *http.Request) { r.URL.RawQuery = "token=" + secret },
			func(r *http.Request) { r.Header.Set("Cookie", "token="+secret) },
			func(r *http.Request) { r.Header.Set("Adit-Id", secret) },
			func(r *http.Request) {
				r.Header.Set("Adit-Instance", strings.Repeat("x", 200))
				r.Header.Set("Authorization", "Bearer "+secret)
			},
		} {
			r, err := http.NewRequest("GET", "http://"+s.addr+"/_adit/connect", nil)
			if err != nil {
				t.Fatal(err)
			}
			change(r)
			look("answer to a request", answerTo(t, r))
		}
	}
	// What operators see.
	for _, path := range []string{"/metrics", "/api/v1/status", "/api/v1/sessions", "/api/v1/tunnels", "/api/v1/routes", "/debug/pprof/cmdline", "/nothing"} {
		for _, token := range []string{m["admin token"], wrong} {
			r, err := http.NewRequest("GET", "http://"+admin+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+token)
			look("admin "+path, answerTo(t, r))
		}
	}

	// The command, with good and bad tokens, and files that are no good.
	for _, token := range []string{jwt, static, m["expired token"], m["unsigned token"], wrong, m["secret"], jwt + "x", static[:len(static)-3]} {
		adit(token, "token", "inspect", "--data-dir", data)
		adit(token, "token", "inspect", "--json", "--data-dir", dir)
	}
	adit("", "token", "revoke", "--file", filepath.Join(dir, "revoked"), "--data-dir", data)
	adit("", "token", "list", "--data-dir", data)
	adit("", "token", "list", "--json", "--data-dir", data)
	adit("", "server", "--secret-file", private("short-secret", wrong[:10]))
	adit("", "server", "--jwks", private("bad-jwks", `{"keys":[{"kty":"oct","k":"`+m["secret"]+`"}]}`), "--jwt-issuer", "x", "--jwt-audience", "y", "--data-dir", data)
	if err := os.Chmod(private("open", m["secret"]), 0o644); err != nil {
		t.Fatal(err)
	}
	adit("", "http", "3000", "--secret-file", filepath.Join(dir, "open"))
	private("data/tokens.json.bad", m["secret"])

	// The end of sessions, of the server, and of agents that look for it.
	processes[7].waitLog(t, "that it was revoked", 20*time.Second, func(log string) bool { return strings.Contains(log, "was revoked") })
	s.kill()
	for _, a := range processes[1:5] {
		a.waitLog(t, "that the server is gone", 20*time.Second, func(log string) bool { return strings.Contains(log, "connection refused") })
	}
	for _, p := range processes {
		p.kill()
		text, _ := p.log.read()
		look("log of "+p.name, text)
	}
	for _, problem := range m.find(seen.String()) {
		t.Error(problem)
	}
	for _, part := range []string{"agent connected", "agent not admitted", "adit_", "cmdline of server"} {
		if !strings.Contains(seen.String(), part) {
			t.Errorf("%q is not among what was looked at", part)
		}
	}
	if got := m.find("it is " + jwt); len(got) == 0 {
		t.Error("the search does not find the jwt")
	}
}

// withSignature replaces the signature of a JWT.
func withSignature(token, signature string) string {
	return token[:strings.LastIndexByte(token, '.')+1] + signature
}

// answerTo returns all of an answer but the body of one that does not end.
func answerTo(t *testing.T, r *http.Request) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Do(r.WithContext(ctx))
	if err != nil {
		return "no answer"
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return fmt.Sprint(resp.Status, resp.Header, string(b))
}
