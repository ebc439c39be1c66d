package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"adit/agent"
	"adit/dialect"
	"adit/policy"
)

const hash = "$2y$05$EH/u9Q/sviBQ4HbTJGO.bOzdw8Rs9BjHBCNSqWujei4acnii7crIq"

// write writes a file that only this user may read.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tunnelOf returns the tunnel that adit http, or its like, makes of args.
func tunnelOf(t *testing.T, kind dialect.Kind, environ []string, args ...string) (agent.Tunnel, error) {
	t.Helper()
	p := &program{environ: append(environ, "XDG_STATE_HOME="+t.TempDir())}
	f := p.newTunnelFlags(kind)
	fl := pflag.NewFlagSet("http", pflag.ContinueOnError)
	f.add(fl)
	if err := fl.Parse(append(args, "--id", "web")); err != nil {
		t.Fatal(err)
	}
	return f.tunnel("3000", nil)
}

func TestPolicyFlags(t *testing.T) {
	t.Parallel()
	logins := write(t, "logins", "# staff\n\nalice:"+hash+"\n  bob:"+hash+"  \n")
	for _, tt := range []struct {
		kind dialect.Kind
		args []string
		want string // of the policy's JSON
	}{
		{dialect.HTTP, nil, ``},
		{dialect.HTTP, []string{"--allow-ip", "192.0.2.1,2001:db8::/32", "--deny-ip", "192.0.2.66"},
			`{"allow_ip":["192.0.2.1/32","2001:db8::/32"],"deny_ip":["192.0.2.66/32"]}`},
		{dialect.TCP, []string{"--allow-ip", "10.0.0.0/8", "--rate", "5/m"}, `{"allow_ip":["10.0.0.0/8"],"rate":"5/m"}`},
		{dialect.HTTP, []string{"--rate", "100/s,burst=200", "--total-rate", "20/h"}, `{"rate":"100/s,burst=200","total_rate":"20/h"}`},
		{dialect.HTTP, []string{"--max-body", "10MiB"}, `{"max_body":10485760}`},
		{dialect.HTTP, []string{"--max-body", "500 kb"}, `{"max_body":500000}`},
		{dialect.HTTP, []string{"--max-body", "7"}, `{"max_body":7}`},
		{dialect.HTTP, []string{"--basic-auth-file", logins, "--pass-authorization"},
			`{"basic_auth":["alice:` + hash + `","bob:` + hash + `"],"pass_authorization":true}`},
		{dialect.HTTP, []string{"--request-header", "X-A: b"}, `{"agent_errors":true}`},
		{dialect.HTTP, []string{"--host-header", "rewrite", "--max-body", "1B"}, `{"max_body":1,"agent_errors":true}`},
	} {
		tn, err := tunnelOf(t, tt.kind, nil, tt.args...)
		if err != nil || string(tn.Policy) != tt.want {
			t.Errorf("%q: got %s, %v; want %s", tt.args, tn.Policy, err, tt.want)
		}
	}
}

func TestPolicyFlagsRefused(t *testing.T) {
	t.Parallel()
	bad, empty := write(t, "bad", "alice:"+hash+"\nbob:hunter2\n"), write(t, "empty", "# nobody\n")
	secret := write(t, "secret", "hunter2 hunter2 hunter2")
	for _, tt := range []struct {
		kind    dialect.Kind
		environ []string
		args    []string
		want    string
	}{
		{dialect.HTTP, nil, []string{"--allow-ip", "nowhere"}, `--allow-ip: "nowhere"`},
		{dialect.HTTP, nil, []string{"--allow-ip", "10.0.0.1/8"}, "did you mean 10.0.0.0/8"},
		{dialect.HTTP, nil, []string{"--deny-ip", "fe80::1%eth0"}, "zone"},
		{dialect.HTTP, nil, []string{"--rate", "fast"}, `--rate: "fast"`},
		{dialect.HTTP, nil, []string{"--total-rate", "1/d"}, `--total-rate: "1/d"`},
		{dialect.HTTP, nil, []string{"--max-body", "0"}, "--max-body"},
		{dialect.HTTP, nil, []string{"--max-body", "-1"}, "--max-body"},
		{dialect.HTTP, nil, []string{"--max-body", "10 apples"}, "--max-body"},
		{dialect.HTTP, nil, []string{"--max-body", "99999999999TiB"}, "--max-body"},
		{dialect.HTTP, nil, []string{"--basic-auth", "hunter2"}, "want user:password"},
		{dialect.HTTP, nil, []string{"--basic-auth", "alice:" + strings.Repeat("hunter2", 20)}, "140 bytes"},
		{dialect.HTTP, nil, []string{"--basic-auth-file", bad}, "line 2"},
		{dialect.HTTP, nil, []string{"--basic-auth-file", empty}, "no login"},
		{dialect.HTTP, nil, []string{"--basic-auth-file", "/nonexistent"}, "--basic-auth-file"},
		{dialect.HTTP, nil, []string{"--pass-authorization"}, "--pass-authorization"},
		{dialect.HTTP, nil, []string{"--viewer-key-file", empty}, "it takes 16"},
		{dialect.HTTP, nil, []string{"--visitor-ca-file", empty}, "--visitor-ca-file: it has no certificate"},
		{dialect.TCP, nil, []string{"--basic-auth", "a:b"}, "--basic-auth: only HTTP"},
		{dialect.TCP, nil, []string{"--max-body", "1B"}, "--max-body: only HTTP"},
		{dialect.TCP, nil, []string{"--viewer-tokens"}, "--viewer-tokens: only HTTP"},
		{dialect.HTTP, nil, []string{"--request-header", "Host: x"}, "--request-header: "},
		{dialect.HTTP, nil, []string{"--request-header", "X-A"}, "':'"},
		{dialect.HTTP, nil, []string{"--request-header-file", "/nonexistent"}, "--request-header-file"},
		{dialect.HTTP, nil, []string{"--response-header-file", write(t, "none", "\n")}, "no header field"},
		{dialect.HTTP, nil, []string{"--remove-response-header", "Connection"}, "--remove-response-header: "},
		{dialect.HTTP, nil, []string{"--host-header", "http://x"}, "--host-header: "},
		{dialect.HTTP, nil, []string{"--verify-webhook", "svix", "--webhook-secret-file", secret}, "--webhook-secret-file: "},
		{dialect.HTTP, nil, []string{"--verify-webhook", "github"}, "no secret"},
		{dialect.HTTP, nil, []string{"--verify-webhook", "gitlab", "--webhook-secret-file", secret}, `"gitlab"`},
		{dialect.HTTP, nil, []string{"--verify-webhook", "stripe", "--webhook-secret-file", secret, "--webhook-tolerance", "0s"}, "tolerance"},
		{dialect.HTTP, nil, []string{"--webhook-secret-file", secret}, "nothing is verified"},
		{dialect.HTTP, []string{"ADIT_WEBHOOK_SECRET=hunter2 hunter2"}, nil, "nothing is verified"},
		{dialect.HTTP, []string{"ADIT_WEBHOOK_SECRET=hunter2 hunter2"}, []string{"--verify-webhook", "github", "--webhook-secret-file", secret}, "both"},
	} {
		_, err := tunnelOf(t, tt.kind, tt.environ, tt.args...)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, want an error with %q and no secret", tt.args, err, tt.want)
		}
	}
}

// The hash of a password differs each time, but what has not changed is no
// change of the tunnel.
func TestLoginsStay(t *testing.T) {
	t.Parallel()
	first, err := tunnelOf(t, dialect.HTTP, nil, "--basic-auth", "alice:sesame")
	if err != nil {
		t.Fatal(err)
	}
	second, err := tunnelOf(t, dialect.HTTP, nil, "--basic-auth", "alice:sesame")
	if err != nil || !reflect.DeepEqual(first.Policy, second.Policy) {
		t.Errorf("got %s and then %s, %v", first.Policy, second.Policy, err)
	}
	if strings.Contains(string(first.Policy), "sesame") {
		t.Error("the password leaves the machine")
	}
}

// A rule that is set in the environment is enforced, or the program says that
// it would not be.
func TestRulesInEnvironment(t *testing.T) {
	t.Parallel()
	all := append([]string{}, ruleFlags...)
	for _, name := range all {
		for _, args := range [][]string{
			{"http", "3000"}, {"tcp", "22"}, {"server", "--listen", "127.0.0.1:0"}, {"agent", "--tunnel", "web=http://localhost:3000"},
		} {
			// A value that no rule takes: whoever heeds it stops at it.
			var errOut output
			p := &program{environ: []string{envName(name) + "=?", "XDG_STATE_HOME=" + t.TempDir()}, out: &output{}, errOut: &errOut}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			code := p.run(ctx, args)
			if ctx.Err() != nil || code == exitDone {
				t.Errorf("%s for adit %s: it runs, and the rule does nothing", envName(name), args[0])
			}
			cancel()
		}
	}
	p := &program{environ: []string{"ADIT_ALLOW_IP=192.0.2.1"}, out: &output{}, errOut: &output{}}
	if code := p.run(t.Context(), []string{"version"}); code != exitDone {
		t.Errorf("adit version with ADIT_ALLOW_IP: exit %d, want 0", code)
	}
}

func TestServerPolicyFlags(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, want string }{
		{"--allow-ip x", "--allow-ip"},
		{"--rate x", "--rate"},
		{"--max-body x", "--max-body"},
		{"--basic-auth a:b", "unknown flag"},
	} {
		var errOut output
		p := &program{environ: []string{"XDG_STATE_HOME=" + t.TempDir()}, out: &output{}, errOut: &errOut}
		if code := p.run(t.Context(), append([]string{"server", "--listen", "127.0.0.1:0"}, strings.Fields(tt.args)...)); code != exitUsage || !strings.Contains(errOut.String(), tt.want) {
			t.Errorf("%s: exit %d, %s; want 2 and %q", tt.args, code, errOut.String(), tt.want)
		}
	}
}

// What adit token viewer prints lets a visitor into the tunnel that adit http
// --viewer-tokens makes, and into no other.
func TestViewerTokenCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	environ := []string{"XDG_STATE_HOME=" + dir}
	mint := func(args ...string) (string, string, int) {
		var out, errOut output
		p := &program{environ: environ, out: &out, errOut: &errOut}
		code := p.run(t.Context(), append([]string{"token", "viewer"}, args...))
		return strings.TrimSpace(out.String()), errOut.String(), code
	}
	token, errOut, code := mint("--id", "web", "--name", "carol")
	if code != exitDone {
		t.Fatalf("exit %d: %s", code, errOut)
	}
	link, _, _ := mint("--id", "web", "--url", "https://web.example.com/a?b=c")
	other, _, _ := mint("--id", "other")

	p := &program{environ: environ}
	f := p.newTunnelFlags(dialect.HTTP)
	fl := pflag.NewFlagSet("http", pflag.ContinueOnError)
	f.add(fl)
	if err := fl.Parse([]string{"--id", "web", "--viewer-tokens"}); err != nil {
		t.Fatal(err)
	}
	tn, err := f.tunnel("3000", nil)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policy.Parse(tn.Policy)
	if err != nil {
		t.Fatal(err)
	}
	g, err := policy.NewGuard("web", rules)
	if err != nil {
		t.Fatal(err)
	}
	admit := func(target, token string) (policy.Pass, error) {
		r := httptest.NewRequest("GET", target, nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		return g.Admit(t.Context(), &policy.Request{Method: "GET", Target: r.URL.RequestURI(), Path: "/", Values: r.Header.Values})
	}
	if _, err := admit("/", token); err != nil {
		t.Errorf("its token: %v", err)
	}
	if _, err := admit("/", other); err == nil {
		t.Error("the token of another ID is good")
	}
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	pass, err := admit(u.RequestURI(), "")
	if err != nil || pass.Redirect == nil || pass.Redirect.Location != "/a?b=c" {
		t.Errorf("its link %s: %+v, %v", link, pass.Redirect, err)
	}
	if c, err := http.ParseSetCookie(pass.Redirect.Cookie); err != nil || c.Value == "" {
		t.Errorf("cookie %q: %v", pass.Redirect.Cookie, err)
	}
	info, err := os.Stat(filepath.Join(dir, "adit", "viewers", "secret"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v; want it for its owner alone", info, err)
	}
	old, both := write(t, "old", "the first master key"), write(t, "both", "the second master key\nthe first master key\n")
	if err := fl.Set("viewer-key-file", both); err != nil {
		t.Fatal(err)
	}
	if tn, err = f.tunnel("3000", nil); err != nil {
		t.Fatal(err)
	}
	if rules, err = policy.Parse(tn.Policy); err != nil || len(rules.ViewerKeys) != 2 {
		t.Fatalf("two keys: %d, %v", len(rules.ViewerKeys), err)
	}
	if g, err = policy.NewGuard("web", rules); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{old, both} {
		token, _, _ := mint("--id", "web", "--viewer-key-file", file)
		if _, err := admit("/", token); err != nil {
			t.Errorf("token made with %s: %v", filepath.Base(file), err)
		}
	}
	for _, args := range [][]string{
		{}, {"--id", "Not An ID"}, {"--id", "web", "--ttl", "0s"}, {"--id", "web", "--ttl", "90000h"}, {"--id", "web", "--once"},
		{"--id", "web", "--url", "web.example.com"}, {"--id", "web", "--url", "https://a:b@web.example.com"}, {"--id", "web", "--name", "a\nb"},
	} {
		if out, _, code := mint(args...); code != exitUsage {
			t.Errorf("%q: exit %d %s, want 2", args, code, out)
		}
	}
	if _, _, code := mint("--id", "web", "--viewer-key-file", "/nonexistent"); code != exitFailed {
		t.Errorf("no key: exit %d, want 1", code)
	}
}
