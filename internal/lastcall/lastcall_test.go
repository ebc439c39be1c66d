package lastcall_test

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/lastcall"
	"adit/internal/testdir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Who is connected is accepted, and nobody else connects.
func TestBegin(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			var lc net.ListenConfig
			lc.SetMultipathTCP(false)
			l, err := lc.Listen(t.Context(), "tcp", addr)
			if err != nil {
				t.Skip(err) // no IPv6
			}
			defer l.Close()
			const waiting = 20
			for range waiting {
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := io.WriteString(c, "hello"); err != nil {
					t.Fatal(err)
				}
			}
			lastcall.Begin(l)
			if runtime.GOOS == "linux" {
				if c, err := net.DialTimeout("tcp", l.Addr().String(), 50*time.Millisecond); err == nil {
					c.Close()
					t.Error("somebody connected after the last call")
				}
			}
			for i := range waiting {
				c, err := l.Accept()
				if err != nil {
					t.Fatalf("conn %d: %v", i, err)
				}
				got := make([]byte, 5)
				if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
					t.Errorf("conn %d: got %q, %v", i, got, err)
				}
				if _, err := io.WriteString(c, "bye"); err != nil {
					t.Errorf("conn %d: %v", i, err)
				}
				c.Close()
			}
			if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v, want the deadline", err)
			}
		})
	}
}

func TestBeginClosesWhatHasNoDeadline(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lastcall.Begin(struct{ net.Listener }{l})
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want that it is closed", err)
	}
}

func TestBeginOnASocketOfTheFileSystem(t *testing.T) {
	t.Parallel()
	path := testdir.Short(t) + "/s"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lastcall.Begin(l)
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	in.Close()
}
