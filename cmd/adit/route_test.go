package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const twoRoutes = `routes:
  - name: web
    members:
      - {id: web-home, weight: 2}
      - {id: web-office, priority: 2}
    sticky: source
    check: {http: /healthz, status: 200, interval: 10s}
  - name: www.example.org
    kind: tls
    members: [{id: site}]
`

func TestRoutesInFile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"no list", "routes: web\n", ":1:9: routes: want a list"},
		{"not settings", "routes: [web]\n", "routes: want settings"},
		{"unknown key", "routes:\n  - nam: web\n", ":2:5: nam is not known here: did you mean name?"},
		{"no members", "routes:\n  - name: web\n", `:2:5: route "web": members: want at least one`},
		{"weight", "routes:\n  - name: web\n    members: [{id: a, weight: x}]\n", "weight"},
		{"weight 0", "routes:\n  - name: web\n    members: [{id: a, weight: 0}]\n", "weight 0: 1 to 1000 are allowed"},
		{"check", "routes:\n  - name: web\n    members: [{id: a}]\n    check: {interval: 5s}\n", `want "http:" with a path`},
		{"check is no mapping", "routes:\n  - name: web\n    members: [{id: a}]\n    check: tcp\n", "check: want settings"},
		{"status", "routes:\n  - name: web\n    members: [{id: a}]\n    check: {http: /, status: fine}\n", `status "fine"`},
		{"twice", "routes:\n  - name: web\n    members: [{id: a}]\n  - name: /web\n    members: [{id: a}]\n", `:4:5: route "web": there is another one`},
		{"tls without a port for it", twoRoutes, "no port for TLS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, out, errOut := call(t, nil, "config", "check", "--role", "server", writeFile(t, tt.text))
			if code == exitDone || !strings.Contains(out+errOut, tt.want) {
				t.Errorf("got exit code %d and %q, want %q", code, out+errOut, tt.want)
			}
		})
	}
	if code, out, _ := call(t, nil, "config", "check", "--role", "server", writeFile(t, "tls-listen: :8443\ndev-tls: true\n"+twoRoutes+"  - name: :5432\n    members: [{id: db}]\n")); code != exitDone {
		t.Errorf("got exit code %d and %q for a good file", code, out)
	}
}

// Routes are set, shown, and there again after a restart; a set that cannot be
// changes nothing.
func TestRouteCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	env := "ADIT_DATA_DIR=" + dir
	start := func() (*command, string) {
		c, url := startServer(t, "--data-dir", dir, "--admin", "127.0.0.1:0")
		return c, url
	}
	c, url := start()
	addr := strings.TrimPrefix(adminURL(t, c), "http://")
	up := site(t)
	newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "agent", "--server", url, "--tunnel", "web-office=http://"+up).out.wait(t, `(http://\S+/web-office/) +-> `)

	route := func(want int, args ...string) string {
		t.Helper()
		code, out, errOut := call(t, []string{env, "ADIT_ADMIN=" + addr}, append([]string{"route"}, args...)...)
		if code != want {
			t.Errorf("route %v: got exit code %d, %q and %q, want %d", args, code, out, errOut, want)
		}
		return out + errOut
	}
	has := func(text string, wants ...string) {
		t.Helper()
		for _, w := range wants {
			if !strings.Contains(text, w) {
				t.Errorf("got %q, want %q in it", text, w)
			}
		}
	}
	file := writeFile(t, `routes:
  - name: web
    members:
      - {id: web-home}
      - {id: web-office, priority: 2}
`)
	has(route(exitDone, "list"), "0 routes, set by adit route set")
	has(route(exitDone, "diff", file), "+ web\n", "member web-office priority 2 weight 1", "1 route would change")
	has(route(exitDone, "set", "--dry-run", file), "1 route would change")
	has(route(exitDone, "list"), "0 routes")
	has(route(exitDone, "set", file), "+ web\n", "1 route changed")
	has(route(exitDone, "list"), "1 route,", "web-home", "away", "web-office", "healthy")
	has(route(exitDone, "diff", file), "0 routes would change")
	resp, err := http.Get("http" + strings.TrimPrefix(url, "ws") + "/web/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("got status %d through the route, want 200", resp.StatusCode)
	}
	_, status, _ := call(t, []string{env}, "status", "--admin", addr)
	has(status, "web-office", "priority 2, weight 1, healthy", "priority 1, weight 1, away")

	// A port that is taken is named, and nothing of the set is there.
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	bad := writeFile(t, fmt.Sprintf("routes:\n  - name: other\n    members: [{id: a}]\n  - name: :%d\n    members: [{id: a}]\n", port))
	has(route(exitFailed, "set", bad), fmt.Sprintf(`route ":%d"`, port), "in use")
	has(route(exitFailed, "set", "--revision", "0", file), "have changed meanwhile")
	has(route(exitFailed, "set", filepath.Join(dir, "none")), "no such file")
	has(route(exitUsage, "set", writeFile(t, "listen: :80\n")), "listen is not known here")
	rules := route(exitDone, "list", "--rules")
	has(rules, `"web-home"`)
	c.stop()
	if b, err := os.ReadFile(filepath.Join(dir, "routes.json")); err != nil || string(b) != rules {
		t.Errorf("got %q, %v in the file, want what list --rules printed", b, err)
	}

	c, _ = start()
	addr = strings.TrimPrefix(adminURL(t, c), "http://")
	has(route(exitDone, "list"), "1 route,", "web-home")
	has(route(exitDone, "set", writeFile(t, "routes: []\n")), "- web\n", "1 route changed")
}

// Routes of the config file are those of the server, and change with it.
func TestRoutesOfConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	one := fmt.Sprintf("data-dir: %s\nadmin: 127.0.0.1:0\nroutes:\n  - name: :%d\n    members: [{id: a}]\n", dir, port)
	file := writeFile(t, one)
	c, _ := startServer(t, "--config", file)
	addr := strings.TrimPrefix(adminURL(t, c), "http://")
	route := func(args ...string) string {
		_, out, errOut := call(t, []string{"ADIT_DATA_DIR=" + dir, "ADIT_ADMIN=" + addr}, append([]string{"route"}, args...)...)
		return out + errOut
	}
	if out := route("list"); !strings.Contains(out, "1 route, those of the server's config file") {
		t.Errorf("got %q", out)
	}
	if out := route("set", writeFile(t, "routes: []\n")); !strings.Contains(out, "config file: change them there") {
		t.Errorf("got %q, want that the file has them", out)
	}
	if err := os.WriteFile(file, []byte(one+"  - name: db\n    members: [{id: b}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.hangups.tell()
	c.err.wait(t, `(routes changed)`)
	if out := route("list"); !strings.Contains(out, "2 routes") {
		t.Errorf("after a reload got %q", out)
	}
	if err := os.WriteFile(file, []byte(one+"  - name: db\n    members: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.hangups.tell()
	c.err.wait(t, `(not reloaded)`)
	if out := route("list"); !strings.Contains(out, "2 routes") {
		t.Errorf("after a reload that failed got %q", out)
	}
}

// The files in docs/failover.md are right.
func TestDocumentedRoutes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/failover.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 2 {
		t.Fatalf("got %d files in the documentation, want 2", len(blocks))
	}
	for _, b := range blocks {
		if rules, err := readRoutes(writeFile(t, b[1])); err != nil || len(rules) == 0 {
			t.Errorf("got %d routes and %v in\n%s", len(rules), err, b[1])
		}
	}
}
