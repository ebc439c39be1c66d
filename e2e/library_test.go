package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// buildExample returns the program of examples/name.
func buildExample(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	c := exec.Command(need(t, "go"), "build", "-o", path, "./examples/"+name)
	c.Dir = ".."
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// sees reports whether a visitor of url gets want within it.
func sees(url, want string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return err
		}
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(b), want) {
			return fmt.Errorf("%s %.100q, %v, want %q", resp.Status, b, err, want)
		}
		return nil
	}
}

// endWell tells a process to end, and checks that it does with success.
func endWell(t *testing.T, p *process, c *exec.Cmd) {
	t.Helper()
	syscall.Kill(p.pid, syscall.SIGTERM)
	select {
	case <-p.done:
		if code := c.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s ended with %d after SIGTERM, want 0", p.name, code)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("%s has not ended after SIGTERM", p.name)
	}
}

// The program of docs/library.md, which has a public address and no port.
func TestLibraryExample(t *testing.T) {
	t.Parallel()
	hello := buildExample(t, "hello")
	s := startServer(t, "--path-mode")
	secret, err := os.ReadFile(s.secret)
	if err != nil {
		t.Fatal(err)
	}
	c := aditCommand([]string{hello})
	c.Env = append(c.Env, "ADIT_SERVER=ws://"+s.addr, "ADIT_TOKEN="+string(secret))
	p := start(t, "hello", c)
	page := sees("http://"+s.addr+"/hello/world", "Hello, you asked for /world")
	p.waitLog(t, "its address", 20*time.Second, func(log string) bool { return strings.Contains(log, "http://hello."+domain) })
	eventually(t, "the page", 10*time.Second, page)

	// The server starts again, and the program comes back by itself.
	s.kill()
	s.start(t)
	waitAccepts(t, s.process, s.addr)
	eventually(t, "the page, after a restart of the server", 20*time.Second, page)

	endWell(t, p, c)
	if log, _ := p.log.read(); strings.Contains(log, string(secret)) {
		t.Error("the program has printed the secret")
	}
}

// A server in another program, below a path.
func TestServerExample(t *testing.T) {
	t.Parallel()
	site := buildExample(t, "server")
	addr := "127.0.0.1:" + freePort(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("an example secret, long enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := aditCommand([]string{site, "-listen", addr, "-secret-file", secret})
	p := start(t, "site", c)
	waitAccepts(t, p, addr)
	blog := upstream(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "the blog") })
	start(t, "agent", aditCommand([]string{binary, "http", blog, "--id", "blog", "--server", "ws://" + addr + "/tunnels", "--secret-file", secret}))
	eventually(t, "the blog", 20*time.Second, sees("http://"+addr+"/tunnels/blog/", "the blog"))
	eventually(t, "the site", 10*time.Second, sees("http://"+addr+"/", "This is the site."))
	endWell(t, p, c)
}
