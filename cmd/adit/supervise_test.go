package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/testdir"
)

// TestServiceManagerIsTold plays the service manager of a server and an agent.
func TestServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	_, url := startServer(t)
	for name, args := range map[string][]string{
		"server": {"server", "--listen", "127.0.0.1:0", "--secret-file", writeFile(t, testSecret)},
		"agent":  {"http", site(t), "--id", "told", "--server", url, "--secret-file", writeFile(t, testSecret)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(testdir.Short(t), "notify")
			l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			next := func() string {
				b := make([]byte, 1024)
				l.SetReadDeadline(time.Now().Add(patience))
				n, err := l.Read(b)
				if err != nil {
					t.Fatal(err)
				}
				return string(b[:n])
			}
			c := newCommand(t, "NOTIFY_SOCKET="+socket).start(t, args...)
			if got, want := next(), "READY=1\nSTATUS=serving "; !strings.HasPrefix(got, want) {
				t.Errorf("said %q at first, want %q", got, want)
			}
			if code := c.stop(); code != exitDone {
				t.Errorf("got exit code %d, want %d", code, exitDone)
			}
			if got, want := next(), "STOPPING=1\n"; got != want {
				t.Errorf("said %q at last, want %q", got, want)
			}
		})
	}
}
