package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestConfigCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	server := write("server.yaml", "listen: :80\ndomain: tunnel.example.com\n")
	agent := write("agent.yaml", "server: wss://tunnel.example.com\ntunnels:\n  - http: 3000\n    id: web\n")
	badServer := write("bad-server.yaml", "listen: 80\ndoman: x\npublic-url: nowhere\nhold: 30\nlog-level: loud\nreserved-ids: ['A B']\n")
	badFiles := write("bad-files.yaml", "tls-cert: /nonexistent/cert\nagent-ca-file: /nonexistent/ca\nold-secret-file: /nonexistent/old\nrate: x\nadmin: nowhere\ntrusted-proxies: [\"::/0\"]\ntls-listen: 127.0.0.1:0\n")
	groups := write("groups.yaml", "forward: ['x y:1', 'db:0']\ntcp-ports: ['0', 7-5]\nreserved-ids: ['A B', 'C D']\nmax-agents-per-subject: -1\ngrants: g\njwt-issuer: i\n")
	rules := write("rules.yaml", "tunnels:\n  - http: 3000\n    allow-ip: [here]\n    rate: 3\n    max-body: x\n    hostname: [a_b]\n  - tls: 443\n    basic-auth: [a:b]\n    proxy-protocol: v3\n")
	badAgent := write("bad-agent.yaml", "server: tunnel.example.com\nca-file: /nonexistent/ca\nsecret-file: /nonexistent/secret\ntunnels:\n  - http: 3000\n    id: Web\n  - tcp: 22\n    max-body: 1MB\n")
	webhook := write("webhook.yaml", "tunnels:\n  - http: 3000\n    verify-webhook: github\n")
	untold := write("untold.yaml", "server: wss://tunnel.example.com\ninstance: x\n")
	for _, tt := range []struct {
		name    string
		args    []string
		environ []string
		code    int
		out     []string // lines, or their beginnings
	}{
		{"good", []string{server, agent}, nil, exitDone, []string{
			server + ": no problem in these settings of a server",
			agent + ": no problem in these settings of an agent",
		}},
		{"the environment does not count", []string{server}, []string{"ADIT_TOKEN=x", "ADIT_LISTEN=y"}, exitDone, []string{server + ": no problem"}},
		{"secrets that the environment has", []string{webhook}, nil, exitDone, []string{webhook + ": no problem"}},
		{"bad server", []string{badServer}, nil, exitFailed, []string{
			badServer + ":1:1: listen \"80\": want a port",
			badServer + ":2:1: doman is not known here: did you mean domain?",
			badServer + `:4:7: hold: "30": want a time such as`,
			badServer + `:5:1: log-level "loud"`,
			badServer + ":6:1: reserved-ids: ",
		}},
		{"files and rules of a server", []string{badFiles}, nil, exitFailed, []string{
			badFiles + ":1:1: tls-cert: certificate file /nonexistent/cert: no such file",
			badFiles + ":2:1: agent-ca-file: ",
			badFiles + ":3:1: old-secret-file: ",
			badFiles + `:4:1: rate: "x"`,
			badFiles + `:5:1: admin "nowhere"`,
			badFiles + `:6:1: trusted-proxies "::/0"`,
		}},
		{"all settings of a kind", []string{groups}, nil, exitFailed, []string{
			groups + ":1:1: forward: ", groups + ":1:1: forward: ",
			groups + ":2:1: tcp-ports: ", groups + ":2:1: tcp-ports: ",
			groups + ":3:1: reserved-ids: ", groups + ":3:1: reserved-ids: ",
			groups + ":4:1: max-agents-per-subject -1: 0 or more",
			groups + ":5:1: grants is of no use",
			groups + ":6:1: jwt-issuer is of no use",
		}},
		{"all rules of a tunnel", []string{rules}, nil, exitFailed, []string{
			rules + `:3:5: allow-ip: "here"`,
			rules + `:4:5: rate: "3"`,
			rules + `:5:5: max-body "x"`,
			rules + ":6:5: hostname: ",
			rules + ":8:5: basic-auth: only HTTP",
			rules + `:9:5: proxy-protocol "v3"`,
		}},
		{"bad agent", []string{badAgent}, nil, exitFailed, []string{
			badAgent + `:1:1: server "tunnel.example.com": want ws://`,
			badAgent + ":2:1: ca-file: open /nonexistent/ca: no such file",
			badAgent + ":3:1: secret-file",
			badAgent + ":6:5: id: ",
			badAgent + ":8:5: max-body: only HTTP",
		}},
		{"told by its settings", []string{untold}, nil, exitFailed, []string{untold + ":1:1: tunnels is missing"}},
		{"role given", []string{"--role", "server", agent}, nil, exitFailed, []string{
			agent + ":1:1: server is not known here", agent + ":2:1: tunnels is not known here"}},
		{"missing", []string{server, server + ".not"}, nil, exitFailed, []string{server + ": no problem", "config file " + server + ".not: no such file"}},
		{"no file", nil, nil, exitUsage, nil},
		{"wrong role", []string{"--role", "client", agent}, nil, exitUsage, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, out, errOut := call(t, tt.environ, append([]string{"config", "check"}, tt.args...)...)
			if code != tt.code || (code == exitDone) != (errOut == "") {
				t.Errorf("got exit code %d and %q, want %d", code, errOut, tt.code)
			}
			lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
			if out == "" {
				lines = nil
			}
			for i, line := range lines {
				if i >= len(tt.out) || !strings.HasPrefix(line, tt.out[i]) {
					t.Errorf("got the line %s", line)
				}
			}
			if len(lines) != len(tt.out) {
				t.Errorf("got %d lines, want\n%s", len(lines), strings.Join(tt.out, "\n"))
			}
		})
	}
}

// What the examples say is right, also where it is a comment.
func TestConfigExample(t *testing.T) {
	t.Parallel()
	for _, role := range roles {
		code, text, errOut := call(t, []string{"STATE_DIRECTORY=/var/lib/marked"}, "config", "example", role)
		if code != exitDone || errOut != "" || strings.Contains(text, "marked") {
			t.Fatalf("%s: got exit code %d, %q and %q", role, code, text, errOut)
		}
		uncommented := regexp.MustCompile(`(?m)^( *)#([a-z0-9-]+: )`).ReplaceAllString(text, "$1$2")
		if n := strings.Count(uncommented, "\n#"); strings.Count(text, "\n#") == n {
			t.Errorf("%s: there is no setting in\n%s", role, text)
		}
		for _, text := range []string{text, uncommented} {
			if code, out, _ := call(t, nil, "config", "check", writeFile(t, text)); code != exitDone || !strings.Contains(out, "settings of a") || !strings.Contains(out, role) {
				t.Errorf("%s: got exit code %d and\n%s\nfor\n%s", role, code, out, text)
			}
		}
	}
	if code, _, errOut := call(t, nil, "config", "example", "client"); code != exitUsage || !strings.Contains(errOut, "server and agent") {
		t.Errorf("got exit code %d and %q", code, errOut)
	}
}

// The files in the documentation are right, but for what they name.
func TestDocumentedFiles(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 2 {
		t.Fatalf("got %d files in the documentation", len(blocks))
	}
	for _, b := range blocks {
		_, out, _ := call(t, nil, "config", "check", writeFile(t, b[1]))
		for line := range strings.Lines(out) {
			if !strings.Contains(line, "no such file") && !strings.Contains(line, "no problem") {
				t.Errorf("%s\nin\n%s", line, b[1])
			}
		}
	}
}
