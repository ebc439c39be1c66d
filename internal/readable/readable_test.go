//go:build unix

package readable_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/readable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns both ends of a conn over network, which t closes.
func pair(t testing.TB, network string) (a, b net.Conn) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err = net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func raw(t testing.TB, c net.Conn) syscall.RawConn {
	t.Helper()
	rc, ok := readable.Of(c)
	if !ok {
		t.Fatalf("Of(%T) = false, want true", c)
	}
	return rc
}

func TestWait(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		for _, tt := range []struct {
			name string
			act  func(a, b net.Conn)
			read string // what a read afterwards yields
			err  error  // from Wait
			end  bool   // the read yields io.EOF
		}{
			{name: "data", act: func(a, b net.Conn) { b.Write([]byte("hello")) }, read: "hello"},
			{name: "end", act: func(a, b net.Conn) { b.Close() }, end: true},
			{name: "close", act: func(a, b net.Conn) { a.Close() }, err: net.ErrClosed},
			{name: "deadline", act: func(a, b net.Conn) { a.SetReadDeadline(time.Unix(1, 0)) }, err: os.ErrDeadlineExceeded},
		} {
			for _, before := range []bool{true, false} {
				name := network + "/" + tt.name + "/while waiting"
				if before {
					name = network + "/" + tt.name + "/before"
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					a, b := pair(t, network)
					rc := raw(t, a)
					result := make(chan error, 1)
					if before {
						tt.act(a, b)
						result <- readable.Wait(rc)
					} else {
						go func() { result <- readable.Wait(rc) }()
						tt.act(a, b)
					}
					if err := <-result; !errors.Is(err, tt.err) {
						t.Fatalf("Wait = %v, want %v", err, tt.err)
					}
					if tt.err != nil {
						return
					}
					buf := make([]byte, 16)
					n, err := a.Read(buf)
					if got := string(buf[:n]); got != tt.read || (err == io.EOF) != tt.end {
						t.Errorf("Read = %q, %v; want %q, end %v", got, err, tt.read, tt.end)
					}
				})
			}
		}
	}
}

// Waiting must not hide a reset, which then looks like the end of the bytes.
func TestReset(t *testing.T) {
	t.Parallel()
	a, b := pair(t, "tcp")
	b.(*net.TCPConn).SetLinger(0)
	b.Close()
	if err := readable.Wait(raw(t, a)); err != nil {
		t.Errorf("Wait = %v, want nil", err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read after a reset = %v, want ECONNRESET", err)
	}
}

func TestWaiterAgain(t *testing.T) {
	t.Parallel()
	a, b := pair(t, "tcp")
	var w readable.Waiter
	w.Init(raw(t, a))
	buf := make([]byte, 4)
	for i := range 100 {
		go b.Write([]byte("ping"))
		for got := 0; got < 4; {
			if err := w.Wait(); err != nil {
				t.Fatalf("Wait %d: %v", i, err)
			}
			n, err := a.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
	}
	a.SetReadDeadline(time.Unix(1, 0))
	if err := w.Wait(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Wait after the deadline = %v, want os.ErrDeadlineExceeded", err)
	}
	a.SetReadDeadline(time.Time{})
	b.Write([]byte("more"))
	if err := w.Wait(); err != nil {
		t.Errorf("Wait with the deadline lifted: %v", err)
	}
}

func TestOf(t *testing.T) {
	t.Parallel()
	a, _ := pair(t, "tcp")
	p, q := net.Pipe()
	defer p.Close()
	defer q.Close()
	for _, c := range []net.Conn{p, tls.Client(a, &tls.Config{ServerName: "x"}), struct{ net.Conn }{a}} {
		if _, ok := readable.Of(c); ok {
			t.Errorf("Of(%T) = true, want false", c)
		}
	}
}

func BenchmarkWaiter(b *testing.B) {
	x, y := pair(b, "tcp")
	var w readable.Waiter
	w.Init(raw(b, x))
	y.Write([]byte("x"))
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	a, b := pair(t, "tcp")
	var w readable.Waiter
	w.Init(raw(t, a))
	go b.Write([]byte("ping"))
	buf := make([]byte, 8)
	if n, err := w.Read(buf); string(buf[:n]) != "ping" || err != nil {
		t.Errorf("Read = %q, %v, want ping", buf[:n], err)
	}
	a.SetReadDeadline(time.Unix(1, 0))
	if n, err := w.Read(buf); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read after the deadline = %d, %v, want os.ErrDeadlineExceeded", n, err)
	}
	a.SetReadDeadline(time.Time{})
	b.(*net.TCPConn).CloseWrite()
	if n, err := w.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("Read at the end = %d, %v, want io.EOF", n, err)
	}
	b.(*net.TCPConn).SetLinger(0)
	b.Close()
	a.Close()
	if n, err := w.Read(buf); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read of a closed conn = %d, %v, want net.ErrClosed", n, err)
	}
}
