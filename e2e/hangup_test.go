package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A process that is told to reload does, and one that cannot ends as it does
// with SIGTERM.
func TestHangup(t *testing.T) {
	t.Parallel()
	need(t, "go")
	s, plain := startHTTP(t, upstream(t, numbered))

	file := filepath.Join(t.TempDir(), "adit.yaml")
	write := func(id string) {
		text := fmt.Sprintf("server: ws://%s\nsecret-file: %s\ntunnels:\n  - http: %s\n    id: %s\n", s.addr, s.secret, upstream(t, numbered), id)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	a := start(t, "agent", aditCommand([]string{binary, "agent", "--config", file}))
	s.waitTunnel(t, "one")
	write("two")
	syscall.Kill(a.pid, syscall.SIGHUP)
	s.waitTunnel(t, "two")
	syscall.Kill(s.pid, syscall.SIGHUP)
	s.waitLog(t, "word of the reload", 20*time.Second, func(log string) bool { return strings.Contains(log, `"msg":"reloaded"`) })

	syscall.Kill(plain.pid, syscall.SIGHUP)
	select {
	case <-plain.done:
	case <-time.After(20 * time.Second):
		t.Error("an agent without a file goes on after SIGHUP")
	}
	s.waitTunnel(t, "two")
}
