package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fileHas waits until a file has text, and returns it all.
func fileHas(t *testing.T, path, text string) string {
	t.Helper()
	limit := time.Now().Add(patience)
	for {
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), text) {
			return string(b)
		}
		if time.Now().After(limit) {
			t.Fatalf("%s has %q, %v after %v, want %q", path, b, err, patience, text)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestAccessLogIsRotated(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	server, url := startServer(t, "--access-log", "json", "--access-log-file", path)
	web := newCommand(t, "ADIT_TOKEN="+testSecret).start(t, "http", site(t), "--id", "web", "--server", url)
	at := web.out.wait(t, `^(http://\S+/web/) +-> `)
	get(t, at+"one?token=hush")
	var line struct {
		Path, Tunnel, Remote, Method string
		Status                       int
	}
	text := fileHas(t, path, "/web/one")
	if err := json.Unmarshal([]byte(text), &line); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	if line.Path != "/web/one" || line.Tunnel != "web" || line.Method != "GET" || line.Status != 200 || !strings.HasPrefix(line.Remote, "127.0.0.1:") {
		t.Errorf("got %q", text)
	}
	if strings.Contains(text, "hush") {
		t.Errorf("the query shows in %q", text)
	}

	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	server.hangups.tell()
	server.err.wait(t, `"reloaded","what":"[^"]*access log`)
	get(t, at+"two")
	fileHas(t, path, "/web/two")
	if old := fileHas(t, path+".1", "/web/one"); strings.Contains(old, "/web/two") {
		t.Errorf("the old file has %q", old)
	}
}

func TestAccessLogOnOutput(t *testing.T) {
	t.Parallel()
	server, url := startServer(t, "--access-log", "combined", "--hold", "0s")
	get(t, strings.Replace(url, "ws://", "http://", 1)+"/nobody/")
	server.stop()
	if text := server.out.String(); !strings.Contains(text, `"GET /nobody/ HTTP/1.1" 404 `) {
		t.Errorf("got %q, want the request", text)
	}
}

func TestWrongOperationFlags(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, want string }{
		{"--access-log xml", `--access-log "xml": json, combined and off are allowed`},
		{"--access-log-file /tmp/x", "without --access-log"},
		{"--drain-delay 2h", "--drain-delay 2h0m0s: 0s to 1h are allowed"},
	} {
		code, _, text := call(t, nil, append([]string{"server", "--listen", "127.0.0.1:0"}, strings.Fields(tt.args)...)...)
		if code != exitUsage || !strings.Contains(text, tt.want) {
			t.Errorf("%s: got exit code %d and %q, want %d and something with %q", tt.args, code, text, exitUsage, tt.want)
		}
	}
	path := filepath.Join(t.TempDir(), "no", "such", "file")
	code, _, text := call(t, nil, "server", "--listen", "127.0.0.1:0", "--access-log", "json", "--access-log-file", path)
	if code != exitFailed || !strings.Contains(text, path) {
		t.Errorf("got exit code %d and %q, want %d and the path", code, text, exitFailed)
	}
}
