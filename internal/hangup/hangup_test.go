//go:build unix

package hangup_test

import (
	"context"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/hangup"
	"adit/internal/testtcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// pair6 returns the two ends of a TCP conn over IPv6.
func pair6(t *testing.T) (here, there net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip(err)
	}
	defer ln.Close()
	there, err = net.Dial("tcp6", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	here, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	return here, there
}

// unixPair returns the two ends of a unix socket.
func unixPair(t *testing.T) (here, there net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "adit") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	there, err = net.Dial("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	here, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	return here, there
}

func TestLeft(t *testing.T) {
	t.Parallel()
	tcp := func(t *testing.T) (net.Conn, net.Conn) { return testtcp.Pair(t) }
	reset := func(c net.Conn) {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	endWrite := func(c net.Conn) { c.(interface{ CloseWrite() error }).CloseWrite() }
	say := func(c net.Conn) { c.Write([]byte("x")) }
	for _, tt := range []struct {
		name  string
		pair  func(*testing.T) (here, there net.Conn)
		there func(net.Conn)
		want  bool
		linux bool // it can be told there alone
	}{
		{"TCP, stays", tcp, func(net.Conn) {}, false, false},
		{"TCP, speaks", tcp, say, false, false},
		{"TCP, reset", tcp, reset, true, false},
		{"TCP, speaks and resets", tcp, func(c net.Conn) { say(c); reset(c) }, true, false},
		{"TCP, half closed", tcp, endWrite, false, false},
		{"TCP, speaks and half closed", tcp, func(c net.Conn) { say(c); endWrite(c) }, false, false},
		{"TCP, closed", tcp, func(c net.Conn) { c.Close() }, true, true},
		{"TCP, half closed and then closed", tcp, func(c net.Conn) { endWrite(c); c.Close() }, true, true},
		{"TCP, speaks and closed", tcp, func(c net.Conn) { say(c); c.Close() }, false, false},
		{"IPv6, half closed", pair6, endWrite, false, false},
		{"IPv6, closed", pair6, func(c net.Conn) { c.Close() }, true, true},
		{"unix, half closed", unixPair, endWrite, false, false},
		{"unix, closed", unixPair, func(c net.Conn) { c.Close() }, true, true},
		{"unix, speaks and closed", unixPair, func(c net.Conn) { say(c); c.Close() }, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.linux && runtime.GOOS != "linux" {
				t.Skip("it cannot be known here")
			}
			here, there := tt.pair(t)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			left := make(chan bool, 1)
			go func() { left <- hangup.Left(ctx, here) }()
			tt.there(there)
			if !tt.want {
				// It has looked for whoever it is by then.
				time.AfterFunc(600*time.Millisecond, cancel)
			}
			if got := <-left; got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if tt.want {
				return
			}
			say(here)
			there.SetReadDeadline(time.Now().Add(patience))
			if _, err := there.Read(make([]byte, 1)); err != nil && tt.name != "TCP, speaks and closed" && tt.name != "unix, speaks and closed" {
				t.Errorf("the conn does not work any more: %v", err)
			}
		})
	}
}

// What is no socket has no far side that is known to leave.
func TestLeftNoSocket(t *testing.T) {
	t.Parallel()
	here, there := net.Pipe()
	defer here.Close()
	there.Close()
	if hangup.Left(t.Context(), here) {
		t.Error("got true of a pipe")
	}
}
