package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"adit/internal/screen"
	"adit/internal/testdir"
	"adit/internal/testtcp"
)

func TestStatusOfAgents(t *testing.T) {
	t.Parallel()
	env := "XDG_RUNTIME_DIR=" + testdir.Short(t)
	if code, out, errOut := call(t, []string{env}, "status"); code != exitFailed || out != "" || !strings.Contains(errOut, "no agent") {
		t.Errorf("without an agent: got exit code %d, %q and %q", code, out, errOut)
	}
	if code, out, _ := call(t, []string{env}, "status", "--json"); code != exitFailed || strings.Join(strings.Fields(out), "") != `{"agents":[]}` {
		t.Errorf("without an agent, in JSON: got exit code %d and %q", code, out)
	}

	_, url := startServer(t)
	up := site(t)
	c := newCommand(t, env, "ADIT_TOKEN="+testSecret).start(t, "agent", "--server", url, "--tunnel", "web=http://"+up, "--tunnel", "raw=tcp://"+up)
	public := c.out.wait(t, `(http://\S+/web/) +-> `)
	code, out, errOut := call(t, []string{env}, "status")
	for _, want := range []string{"connected for ", url, "web  http  " + public, "raw  tcp   -  ", "->  " + up, "refused: no port is free"} {
		if code != exitDone || errOut != "" || !strings.Contains(out, want) {
			t.Errorf("got exit code %d, %q and %q; want %q", code, out, errOut, want)
		}
	}
	_, out, _ = call(t, []string{env}, "status", "--json")
	var all struct{ Agents []agentReport }
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all.Agents) != 1 {
		t.Fatalf("got %v and %q, want one agent", err, out)
	}
	r := all.Agents[0]
	if r.State != screen.Connected || r.PID != os.Getpid() || r.Server != url || len(r.Tunnels) != 2 || r.Tunnels[0].URLs[0] != public || r.Tunnels[0].Answers != nil {
		t.Errorf("got %+v", r)
	}
	if strings.Contains(out, testSecret) {
		t.Errorf("the credential shows in %q", out)
	}

	sockets, _ := filepath.Glob(filepath.Join(strings.TrimPrefix(env, "XDG_RUNTIME_DIR="), "adit", "*"))
	if len(sockets) != 1 {
		t.Fatalf("got sockets %q, want one", sockets)
	}
	for path, want := range map[string]os.FileMode{sockets[0]: 0o600, filepath.Dir(sockets[0]): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %o", path, info.Mode(), err, want)
		}
	}
	c.stop()
	if _, err := os.Stat(sockets[0]); err == nil {
		t.Error("the socket is left behind")
	}
}

// TestStatusOfAgentThatWaits is about one that has no server.
func TestStatusOfAgentThatWaits(t *testing.T) {
	t.Parallel()
	env := "XDG_RUNTIME_DIR=" + testdir.Short(t)
	c := newCommand(t, env, "ADIT_TOKEN="+testSecret).start(t, "http", "3000", "--id", "web", "--server", "ws://127.0.0.1:1")
	c.out.wait(t, "waiting for the server")
	code, out, _ := call(t, []string{env}, "status")
	for _, want := range []string{"waiting for ", "\n  127.0.0.1:1: connection refused\n", "web  http  -  ->  localhost:3000"} {
		if code != exitDone || !strings.Contains(out, want) {
			t.Errorf("got exit code %d and %q, want %q", code, out, want)
		}
	}
}

// TestStatusDistrusts shows what a socket says as text, whatever it says, and
// waits for none that says nothing.
func TestStatusDistrusts(t *testing.T) {
	t.Parallel()
	dir := testdir.Short(t)
	if err := os.MkdirAll(filepath.Join(dir, "adit"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i, say := range []string{`{"state":"\u001b[2J","tunnels":[{"id":"\u001b]0;x\u0007"}]}`, `not JSON`, `{"tunnels":"malformed"}`, strings.Repeat(" ", maxReport+1) + "{}"} {
		ln, err := net.Listen("unix", filepath.Join(dir, "adit", fmt.Sprintf("agent-%d.sock", i)))
		if err != nil {
			t.Fatal(err)
		}
		testtcp.ServeInTurnOn(t, ln, func(c net.Conn) { c.Write([]byte(say)) })
	}
	code, out, _ := call(t, []string{"XDG_RUNTIME_DIR=" + dir}, "status")
	if code != exitDone || strings.ContainsAny(out, "\x1b\x07") || strings.Count(out, "process") != 1 {
		t.Errorf("got exit code %d and %q, want one agent, and nothing that a terminal acts upon", code, out)
	}
}

func TestStaleReports(t *testing.T) {
	t.Parallel()
	dir := testdir.Short(t)
	left, fresh := filepath.Join(dir, "agent-1-0000.sock"), filepath.Join(dir, "agent-2-0000.sock")
	for _, path := range []string{left, fresh} {
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		ln.SetUnlinkOnClose(false)
		ln.Close()
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	ln, err := listenReports(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := os.Lstat(left); err == nil && runtime.GOOS != "windows" {
		t.Error("an old socket of nobody is kept")
	}
	if _, err := os.Lstat(fresh); err != nil {
		t.Error("a new socket, which may not be listened to yet, is removed")
	}
	if _, err := listenReports(filepath.Join(dir, strings.Repeat("long", 30))); err == nil {
		t.Error("a path that is too long: no error")
	}
}

func TestStatusOfServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sock := "unix:" + filepath.Join(testdir.Short(t), "admin.sock")
	_, url := startServer(t, "--admin", sock, "--data-dir", dir)
	c := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", site(t), "--id", "web", "--server", url)
	public := c.out.wait(t, `(http://\S+/web/) +-> `)

	code, out, errOut := call(t, nil, "status", "--admin", sock, "--data-dir", dir)
	for _, want := range []string{"  ready  adit ", "TUNNEL  KIND  ADDRESS", "web     http  " + public, "SESSION ", "ROUTE ", "/web "} {
		if code != exitDone || errOut != "" || !strings.Contains(out, want) {
			t.Errorf("got exit code %d, %q and %q; want %q", code, out, errOut, want)
		}
	}
	code, out, _ = call(t, nil, "status", "--admin", sock, "--data-dir", dir, "--json")
	var all struct {
		Server   struct{ Ready bool }
		Tunnels  []struct{ ID string }
		Sessions []struct{ ID string }
		Routes   []struct{ Key string }
	}
	if err := json.Unmarshal([]byte(out), &all); code != exitDone || err != nil || !all.Server.Ready || len(all.Tunnels) != 1 || len(all.Sessions) != 1 || len(all.Routes) == 0 {
		t.Errorf("got exit code %d, %v and %q", code, err, out)
	}

	wrong := writeFile(t, "this is not the right token at all")
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"wrong token", []string{"--admin", sock, "--admin-token-file", wrong}, exitFailed, "this is not the admin token"},
		{"no token", []string{"--admin", sock, "--data-dir", t.TempDir()}, exitFailed, "--admin-token-file names another"},
		{"nobody there", []string{"--admin", "127.0.0.1:1", "--admin-token-file", wrong}, exitFailed, "connection refused"},
		{"no address", []string{"--admin", "nowhere"}, exitFailed, "--admin-token-file"},
		{"malformed address", []string{"--admin", "nowhere", "--admin-token-file", wrong}, exitUsage, `--admin "nowhere"`},
		{"URL with a password", []string{"--admin", "https://a:b@host", "--admin-token-file", wrong}, exitUsage, "--admin: want a URL"},
		{"token for nothing", []string{"--admin-token-file", wrong}, exitUsage, "without --admin"},
	} {
		code, out, errOut := call(t, nil, append([]string{"status"}, tt.args...)...)
		if code != tt.code || out != "" || !strings.Contains(errOut, tt.want) {
			t.Errorf("%s: got exit code %d, %q and %q; want %d and %q", tt.name, code, out, errOut, tt.code, tt.want)
		}
	}
}

// TestStatusOfOthers asks what is no admin address: the token goes nowhere else.
func TestStatusOfOthers(t *testing.T) {
	t.Parallel()
	token := writeFile(t, "a token of these tests alone")
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s was asked with %q", r.URL, r.Header)
	}))
	defer other.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) },
		"page":     func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("<html>")) },
		"bad list": func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(`{"tunnels":{}}`)) },
		"refusal": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			w.Write([]byte(`{"error":{"message":"\u001b[2J"}}`))
		},
		"same pages": func(w http.ResponseWriter, r *http.Request) {
			answer := `{"tunnels":[],"sessions":[],"routes":[],"next":"a"}`
			if r.URL.Path == "/api/v1/status" {
				answer = "{}"
			}
			w.Write([]byte(answer))
		},
	} {
		ts := httptest.NewServer(answer)
		code, _, errOut := call(t, nil, "status", "--admin", ts.URL, "--admin-token-file", token)
		want := exitFailed
		if name == "same pages" {
			want = exitDone
		}
		if code != want || strings.Contains(errOut, "\x1b") || strings.Contains(errOut, "a token of") {
			t.Errorf("%s: got exit code %d and %q, want %d", name, code, errOut, want)
		}
		ts.Close()
	}
}
