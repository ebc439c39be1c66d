package agent_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"adit/agent"
	"adit/dialect"
)

func with(t *testing.T, up *agent.Upstream, rules agent.Rules) *agent.Upstream {
	t.Helper()
	got, err := up.With(rules, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != up.String() {
		t.Errorf("with rules the upstream is %q, want %q", got, up)
	}
	return got
}

// A visitor sees the tunnel's name alone, the upstream its own: through the
// whole of server and agent, by hostname and by path.
func TestRules(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var site *httptest.Server
	site = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", site.URL+"/next")
		w.Header().Set("Server", "secret/1.0")
		w.WriteHeader(http.StatusFound)
		fmt.Fprintf(w, "%s %s %s", r.Host, r.Header.Get("X-Env"), r.Header.Get("X-Forwarded-For"))
	}))
	t.Cleanup(site.Close)
	addr := site.Listener.Addr().String()
	up := with(t, upstream(t, addr), agent.Rules{
		SetRequest:     []string{"X-Env: dev"},
		RemoveResponse: []string{"Server"},
		Host:           "rewrite",
	})
	r := run(t, f.options(agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: up}))
	r.until(agent.Connected)
	for _, tt := range []struct{ host, path, location string }{
		{"web.localhost", "/", "http://web.localhost/next"},
		{"localhost", "/web/", "/web/next"},
	} {
		req, err := http.NewRequest("GET", "http://"+f.addr+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if want := addr + " dev 127.0.0.1"; string(body) != want {
			t.Errorf("%s%s: upstream got %q, want %q", tt.host, tt.path, body, want)
		}
		if got := resp.Header.Get("Location"); got != tt.location || resp.Header["Server"] != nil {
			t.Errorf("%s%s: visitor got Location %q and Server %q, want %q and none", tt.host, tt.path, got, resp.Header["Server"], tt.location)
		}
	}
	if err := up.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

func TestRulesForWebhooks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const secret, body = "a secret for tests", `{"a":1}`
	up := with(t, agent.HandlerUpstream("hooks", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })), agent.Rules{
		Webhook: &agent.Webhook{Scheme: "github", Secrets: []string{secret}},
	})
	r := run(t, f.options(agent.Tunnel{ID: "hooks", Kind: dialect.HTTP, Upstream: up, Policy: []byte(`{"agent_errors":true}`)}))
	r.until(agent.Connected)
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(body))
	for _, tt := range []struct {
		signature string
		status    int
		code      string
	}{
		{"sha256=" + hex.EncodeToString(m.Sum(nil)), 200, ""},
		{"", 401, "signature-missing"},
		{"sha256=00", 403, "signature-invalid"},
	} {
		req, err := http.NewRequest("POST", "http://"+f.addr+"/hooks/", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if tt.signature != "" {
			req.Header.Set("X-Hub-Signature-256", tt.signature)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || resp.Header.Get("Adit-Error") != tt.code {
			t.Errorf("signature %q: got %d %q %s, %v; want %d %q", tt.signature, resp.StatusCode, resp.Header.Get("Adit-Error"), got, err, tt.status, tt.code)
		}
		if tt.status == 200 && string(got) != body {
			t.Errorf("upstream got %q, want %q", got, body)
		}
	}
}

// Visitors learn what became of an upstream that the agent does not reach, and
// no address of it.
func TestRulesWithoutUpstream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	up := with(t, upstream(t, "127.0.0.1:1"), agent.Rules{SetRequest: []string{"X-A: b"}})
	r := run(t, f.options(agent.Tunnel{ID: "web", Kind: dialect.HTTP, Upstream: up, Policy: []byte(`{"agent_errors":true}`)}))
	r.until(agent.Connected)
	resp, err := http.Get("http://" + f.addr + "/web/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 502 || resp.Header.Get("Adit-Error") != "upstream-refused" || strings.Contains(string(body), "127.0.0.1:1") {
		t.Errorf("got %d %q %s, want 502 upstream-refused", resp.StatusCode, resp.Header.Get("Adit-Error"), body)
	}
	if err := up.Check(t.Context()); err == nil {
		t.Error("Check reaches it")
	}
}

func TestRulesAreChecked(t *testing.T) {
	t.Parallel()
	web, socket := upstream(t, "localhost:3000"), upstream(t, "unix:/tmp/x.sock")
	handler := agent.HandlerUpstream("h", http.NotFoundHandler())
	for name, tt := range map[string]struct {
		up    *agent.Upstream
		rules agent.Rules
		want  string
	}{
		"field":         {web, agent.Rules{SetRequest: []string{"Host: x"}}, "--host-header"},
		"answer":        {web, agent.Rules{SetResponse: []string{"Connection: x"}}, "SetResponse"},
		"name":          {web, agent.Rules{RemoveRequest: []string{"Content-Length"}}, "Content-Length"},
		"answer's name": {web, agent.Rules{RemoveResponse: []string{"a b"}}, "a b"},
		"host":          {web, agent.Rules{Host: "a b"}, "a b"},
		"host with URL": {web, agent.Rules{Host: "http://x"}, "http://x"},
		"no own host":   {handler, agent.Rules{Host: "rewrite"}, "no address"},
		"scheme":        {web, agent.Rules{Webhook: &agent.Webhook{Scheme: "x", Secrets: []string{"12345678"}}}, `"x"`},
		"no secret":     {web, agent.Rules{Webhook: &agent.Webhook{Scheme: "github"}}, "0 secrets"},
		"tolerance":     {web, agent.Rules{Webhook: &agent.Webhook{Scheme: "github", Secrets: []string{"12345678"}, Tolerance: 100 * time.Hour}}, "tolerance"},
		"listener":      {agent.NewListener("l", 0).Upstream(), agent.Rules{Host: "x"}, "listener"},
	} {
		if _, err := tt.up.With(tt.rules, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, tt.want)
		}
	}
	with(t, socket, agent.Rules{Host: "rewrite"})
	with(t, handler, agent.Rules{Host: "app.internal"})
	if !(agent.Rules{}).IsZero() || (agent.Rules{Host: "x"}).IsZero() {
		t.Error("IsZero is wrong")
	}
}
