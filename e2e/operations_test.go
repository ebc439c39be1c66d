package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"adit/internal/testdir"
)

// adminSocket is a path that is short enough for a socket.
func adminSocket(t *testing.T) string {
	t.Helper()
	return filepath.Join(testdir.Short(t), "admin.sock")
}

func hello(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }

// What docs/operations.md has an operator do, with curl.
func TestOperateWithCurl(t *testing.T) {
	t.Parallel()
	curl := need(t, "curl")
	socket := adminSocket(t)
	s := startServer(t, "--admin", "unix:"+socket, "--access-log", "json", "--hold", "1s")
	s.agent(t, "http", upstream(t, hello), "--id", "web")
	s.waitTunnel(t, "web")
	token, err := os.ReadFile(filepath.Join(s.dir, "data", "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path string, more ...string) string {
		t.Helper()
		args := append([]string{"-sS", "--unix-socket", socket, "-H", "Authorization: Bearer " + strings.TrimSpace(string(token)), "-w", " %{http_code}"}, more...)
		return run(t, 30*time.Second, curl, append(args, "http://localhost"+path)...)
	}
	for path, want := range map[string]string{
		"/readyz":                "ready",
		"/api/v1/status":         `"sessions":1`,
		"/api/v1/tunnels":        `"id":"web"`,
		"/metrics":               `adit_sessions{dialect="native",state="available"} 1`,
		"/debug/pprof/heap":      "",
		"/api/v1/openapi.yaml":   "openapi: 3",
		"/api/v1/routes?limit=5": `"key":"/web"`,
	} {
		args := []string(nil)
		if want == "" {
			args = []string{"-o", filepath.Join(t.TempDir(), "profile")}
		}
		if got := ask(path, args...); !strings.Contains(got, want) || !strings.HasSuffix(got, " 200") {
			t.Errorf("%s: got %q, want 200 and %q", path, got, want)
		}
	}
	if got := run(t, 30*time.Second, curl, "-sS", "--unix-socket", socket, "http://localhost/api/v1/status"); !strings.Contains(got, "missing-credential") {
		t.Errorf("without a token: got %q", got)
	}

	const block = `{"name": "web", "reason": "phishing, ticket 17"}`
	if got := ask("/api/v1/blocks", "-X", "POST", "-H", "Content-Type: application/json", "-d", block); got != " 204" {
		t.Errorf("block: got %q, want 204", got)
	}
	if got := run(t, 30*time.Second, curl, "-sS", "-H", "Host: web."+domain, "http://"+s.addr+"/"); !strings.Contains(got, "name-blocked") {
		t.Errorf("a visitor of a blocked name: got %q", got)
	}
	if got := ask("/api/v1/blocks/web", "-X", "DELETE"); got != " 204" {
		t.Errorf("unblock: got %q, want 204", got)
	}
	s.waitTunnel(t, "web") // the agent has tried on
	if got := ask("/api/v1/reload", "-X", "POST"); got != " 204" {
		t.Errorf("reload: got %q, want 204", got)
	}
	s.waitLog(t, "a line for a request", 10*time.Second, func(log string) bool {
		return strings.Contains(log, `"code":"name-blocked"`) && strings.Contains(log, `"path":"/"`)
	})
	if log, _ := s.log.read(); strings.Contains(log, strings.TrimSpace(string(token))) {
		t.Error("the admin token is in the log")
	}
}

// A server that is told to stop says so before it does, and is whole until then.
func TestReadinessGoesFirst(t *testing.T) {
	t.Parallel()
	const delay = 5 * time.Second // within which all is asked
	s := startServer(t, "--drain-delay", delay.String())
	s.agent(t, "http", upstream(t, hello), "--id", "web")
	s.waitTunnel(t, "web")
	visitor := s.visitor(t)
	status := func(path string) (int, error) {
		resp, err := visitor.Get(s.hostURL("web") + path)
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, nil
	}
	if err := syscall.Kill(s.pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server says that it is not ready", delay, func(context.Context) error {
		if got, err := status("/_adit/readyz"); err != nil || got != http.StatusServiceUnavailable {
			return fmt.Errorf("got %d, %w", got, err)
		}
		return nil
	})
	for _, path := range []string{"/_adit/healthz", "/"} {
		if got, err := status(path); got != http.StatusOK {
			t.Errorf("%s while it drains: got %d, %v, want 200", path, got, err)
		}
	}
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		t.Fatal("the server does not end")
	}
	if _, err := status("/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after its end: got %v, want that nobody listens", err)
	}
}
