//go:build unix

package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startProgram starts adit in a process of its own, behind words of a shell, and
// returns it once it has printed ready. One that does not end is killed.
func startProgram(t *testing.T, shell, ready string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command("/bin/sh", append([]string{"-c", shell + ` exec "$0" "$@"`, os.Args[0]}, args...)...)
	c.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, envPrefix) }), asProgram+"=1")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	c.Stdout, c.Stderr = w, w
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { c.Process.Kill() })
	late := time.AfterFunc(2*patience, func() { c.Process.Kill() })
	t.Cleanup(func() { late.Stop() })
	r.SetReadDeadline(time.Now().Add(patience))
	lines := bufio.NewScanner(r)
	var printed strings.Builder
	for lines.Scan() {
		printed.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), ready) {
			go io.Copy(io.Discard, r)
			return c
		}
	}
	t.Fatalf("%v: it did not print %q: %v; it printed:\n%s", args, ready, lines.Err(), printed.String())
	return nil
}

// Whoever starts a program in place of one that handles no signals sees the same
// end of it.
func TestEndBySignal(t *testing.T) {
	t.Parallel()
	tow := []string{"tcp-over-websocket", "server", "-listen_ws", "127.0.0.1:0", "-connect_tcp", "127.0.0.1:1"}
	towClient := []string{"tcp-over-websocket", "client", "-listen_tcp", "127.0.0.1:0", "-connect_ws", "ws://127.0.0.1:1"}
	srv := []string{"wstunnel", "srv", "-host", "127.0.0.1", "-port", "0"}
	cli := []string{"wstunnel", "cli", "-token", "a-token-of-the-tests", "-tunnel", "ws://127.0.0.1:1", "-server", "http://127.0.0.1:1"}
	for name, tt := range map[string]struct {
		args  []string
		ready string
		by    syscall.Signal
		code  int // -1 is by the signal
	}{
		"server, SIGTERM":       {tow, "Listening to", syscall.SIGTERM, -1},
		"server, SIGINT":        {tow, "Listening to", syscall.SIGINT, -1},
		"server, SIGHUP":        {tow, "Listening to", syscall.SIGHUP, -1},
		"client, SIGTERM":       {towClient, "Listening to", syscall.SIGTERM, -1},
		"wstunnel srv, SIGTERM": {srv, "Listening", syscall.SIGTERM, -1},
		"wstunnel cli, SIGINT":  {cli, "WS   Opening", syscall.SIGINT, -1},
		"adit's own, SIGTERM":   {[]string{"demo"}, "http", syscall.SIGTERM, exitDone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startProgram(t, "", tt.ready, tt.args...)
			c.Process.Signal(tt.by)
			c.Wait()
			status := c.ProcessState.Sys().(syscall.WaitStatus)
			switch {
			case tt.code >= 0 && status.ExitStatus() != tt.code:
				t.Errorf("got %v, want the exit code %d", c.ProcessState, tt.code)
			case tt.code < 0 && (!status.Signaled() || status.Signal() != tt.by):
				t.Errorf("got %v, want an end by %v", c.ProcessState, tt.by)
			}
		})
	}
}

// A signal that was to be ignored is: nohup, and shells that start something in
// the background, ask for that.
func TestIgnoredSignals(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args    []string
		ready   string
		ignored syscall.Signal
		word    string
	}{
		"SIGHUP": {[]string{"tcp-over-websocket", "server", "-listen_ws", "127.0.0.1:0", "-connect_tcp", "127.0.0.1:1"}, "Listening to", syscall.SIGHUP, "HUP"},
		"SIGINT": {[]string{"tcp-over-websocket", "server", "-listen_ws", "127.0.0.1:0", "-connect_tcp", "127.0.0.1:1"}, "Listening to", syscall.SIGINT, "INT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startProgram(t, "trap '' "+tt.word+";", tt.ready, tt.args...)
			c.Process.Signal(tt.ignored)
			c.Process.Signal(syscall.SIGTERM)
			c.Wait()
			if status := c.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() && status.Signal() == tt.ignored {
				t.Errorf("got %v, want an end by SIGTERM", c.ProcessState)
			}
		})
	}
}
