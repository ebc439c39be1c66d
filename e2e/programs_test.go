package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"adit/internal/testport"
)

// missing skips the test for want of what, or fails it with ADIT_E2E=require.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("ADIT_E2E") == "require" {
		t.Fatalf("this test needs %s", what)
	}
	t.Skipf("this test needs %s", what)
}

// need returns the path of a program, which the test cannot do without.
func need(t *testing.T, program string) string {
	t.Helper()
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	// Debian keeps these out of the PATH of ordinary users.
	for _, pattern := range []string{"/usr/sbin/", "/sbin/", "/usr/lib/postgresql/*/bin/"} {
		if found, _ := filepath.Glob(pattern + program); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	missing(t, "the program "+program)
	return ""
}

// needRoot leaves out a test that only root can run.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "root")
	}
}

// freePort returns a port that is the test's until it ends.
func freePort(t *testing.T) string {
	t.Helper()
	return fmt.Sprint(testport.One(t))
}

// eventually asks again and again until ask returns nil; a program beside the
// test gives no event to wait for.
func eventually(t *testing.T, what string, limit time.Duration, ask func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		case <-again.C:
		}
	}
}

// waitAccepts waits until something listens on addr.
func waitAccepts(t *testing.T, p *process, addr string) {
	t.Helper()
	eventually(t, p.name+" listens on "+addr, 20*time.Second, func(ctx context.Context) error {
		select {
		case <-p.done:
			t.Fatalf("%s ended before it listened on %s", p.name, addr)
		default:
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// run runs a program to its end and returns what it printed on standard output.
func run(t *testing.T, limit time.Duration, program string, args ...string) string {
	t.Helper()
	out, err := try(t.Context(), limit, program, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try is run with the error returned.
func try(ctx context.Context, limit time.Duration, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c := exec.CommandContext(ctx, program, args...)
	c.Env = environ()
	c.WaitDelay = time.Second
	out, err := c.Output()
	if err != nil {
		var text []byte
		if exit, ok := err.(*exec.ExitError); ok {
			text = exit.Stderr
		}
		return string(out), fmt.Errorf("%s %q: %w: %s", program, args, err, text)
	}
	return string(out), nil
}
