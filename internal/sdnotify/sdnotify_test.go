package sdnotify_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/sdnotify"
	"adit/internal/testdir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manager listens as a service manager does.
func manager(t *testing.T) (name string, next func() string) {
	t.Helper()
	name = filepath.Join(testdir.Short(t), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return name, func() string {
		t.Helper()
		b := make([]byte, 1024)
		l.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestNotify(t *testing.T) {
	t.Parallel()
	name, next := manager(t)
	n := sdnotify.New(env(map[string]string{"NOTIFY_SOCKET": name}))
	for _, tt := range []struct {
		send func()
		want string
	}{
		{func() { n.Ready("listening on :8080") }, "READY=1\nSTATUS=listening on :8080\n"},
		{func() { n.Ready("two\nlines") }, "READY=1\nSTATUS=two lines\n"},
		{n.Stopping, "STOPPING=1\n"},
	} {
		tt.send()
		if got := next(); got != tt.want {
			t.Errorf("sent %q, want %q", got, tt.want)
		}
	}
}

func TestWatchdog(t *testing.T) {
	t.Parallel()
	name, next := manager(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	n := sdnotify.New(env(map[string]string{
		"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": strconv.Itoa(os.Getpid()),
	}))
	go func() {
		defer close(done)
		n.Watch(ctx)
	}()
	for range 3 {
		if got, want := next(), "WATCHDOG=1\n"; got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
	}
	cancel()
	<-done
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	for name, vars := range map[string]map[string]string{
		"no service manager":      nil,
		"a name that is none":     {"NOTIFY_SOCKET": "relative"},
		"a socket that is gone":   {"NOTIFY_SOCKET": filepath.Join(t.TempDir(), "gone")},
		"a watchdog of a parent":  {"NOTIFY_SOCKET": "@adit-nobody", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
		"a watchdog without time": {"NOTIFY_SOCKET": "@adit-nobody", "WATCHDOG_USEC": "none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := sdnotify.New(env(vars))
			n.Ready("")
			n.Stopping()
			if vars["WATCHDOG_USEC"] != "" || vars == nil {
				n.Watch(t.Context()) // returns at once
			}
		})
	}
}
