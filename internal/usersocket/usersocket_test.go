package usersocket_test

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/testdir"
	"adit/internal/usersocket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// leave leaves a socket at path that nobody listens on.
func leave(t *testing.T, path string) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
}

func mustListen(t *testing.T, path string) net.Listener {
	t.Helper()
	ln, err := usersocket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// reaches checks that ln is what is connected to at path.
func reaches(t *testing.T, path string, ln net.Listener) {
	t.Helper()
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(5 * time.Second))
	got, err := ln.Accept()
	if err != nil {
		t.Fatalf("somebody else has the connection: %v", err)
	}
	got.Close()
}

func TestListen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testdir.Short(t), "s")
	leave(t, path)
	ln := mustListen(t, path)
	reaches(t, path, ln)
	if got := ln.Addr().String(); got != path {
		t.Errorf("got address %s, want %s", got, path)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
	if again, err := usersocket.Listen(path); err == nil {
		again.Close()
		t.Error("a socket in use was taken over")
	}
	reaches(t, path, ln)
	ln.Close()
	ln.Close()
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) > 0 {
		t.Errorf("there is %q still", left)
	}
}

// At no moment is the socket there for others.
func TestNeverForOthers(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere its mode is another one until there is somebody to connect to")
	}
	path := filepath.Join(testdir.Short(t), "s")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if info, err := os.Lstat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("the socket was there with mode %v", info.Mode())
				return
			}
		}
	})
	for range 300 {
		ln, err := usersocket.Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
	}
}

// Whoever listens keeps the socket, however busy, and though others may not
// connect to it; so does what is no socket.
func TestOthersKeepTheirs(t *testing.T) {
	t.Parallel()
	t.Run("busy", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(testdir.Short(t), "s")
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		for { // until its queue is full
			c, err := net.DialTimeout("unix", path, time.Second)
			if err != nil {
				break
			}
			defer c.Close()
		}
		if again, err := usersocket.Listen(path); err == nil {
			again.Close()
			t.Error("the socket of somebody busy was taken over")
		}
	})
	t.Run("datagrams", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(testdir.Short(t), "s")
		pc, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Skip(err)
		}
		defer pc.Close()
		if again, err := usersocket.Listen(path); err == nil {
			again.Close()
			t.Error("a socket of another kind was taken over")
		}
	})
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(testdir.Short(t), "s")
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if ln, err := usersocket.Listen(path); err == nil {
			ln.Close()
			t.Error("a file was replaced")
		}
		if b, _ := os.ReadFile(path); string(b) != "precious" {
			t.Errorf("the file has %q now", b)
		}
	})
	t.Run("dangling link", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(testdir.Short(t), "s")
		if err := os.Symlink("nowhere", path); err != nil {
			t.Skip(err)
		}
		if ln, err := usersocket.Listen(path); err == nil {
			ln.Close()
			t.Error("a link was replaced")
		}
	})
}

// Of many who find a socket that was left behind one gets the path, and keeps it.
func TestRace(t *testing.T) {
	t.Parallel()
	dir := testdir.Short(t)
	path := filepath.Join(dir, "s")
	for range 20 {
		leave(t, path)
		var mu sync.Mutex
		var won []net.Listener
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				ln, err := usersocket.Listen(path)
				if err != nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				won = append(won, ln)
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("got %d who listen, want 1", len(won))
		}
		reaches(t, path, won[0])
		won[0].Close()
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
			t.Fatalf("there is %q still", left)
		}
	}
}

// A listener that ends leaves the socket of who came after it.
func TestCloseRemovesItsOwn(t *testing.T) {
	t.Parallel()
	path := filepath.Join(testdir.Short(t), "s")
	first := mustListen(t, path)
	os.Remove(path) // as an operator may
	second := mustListen(t, path)
	first.Close()
	reaches(t, path, second)
}
