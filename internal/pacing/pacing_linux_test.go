package pacing_test

import (
	"context"
	"net"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"adit/internal/pacing"
)

// congestionControl returns the name of what a socket uses.
func congestionControl(t *testing.T, c syscall.Conn) string {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var name string
	rc.Control(func(fd uintptr) {
		name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestControl(t *testing.T) {
	t.Parallel()
	listen := func(addr string, lc net.ListenConfig) *net.TCPListener {
		ln, err := lc.Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln.(*net.TCPListener)
	}
	system := congestionControl(t, listen("127.0.0.1:0", net.ListenConfig{}))
	want := system
	if strings.HasPrefix(system, "bbr") {
		want = "reno"
	}
	ln := listen("127.0.0.1:0", net.ListenConfig{Control: pacing.Control})
	if got := congestionControl(t, ln); got != want {
		t.Errorf("listener on loopback: got %s, want %s", got, want)
	}
	if got := congestionControl(t, listen(":0", net.ListenConfig{Control: pacing.Control})); got != system {
		t.Errorf("listener on all addresses: got %s, want %s", got, system)
	}
	d := net.Dialer{Control: pacing.Control}
	c, err := d.DialContext(context.Background(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := congestionControl(t, c.(*net.TCPConn)); got != want {
		t.Errorf("dialled: got %s, want %s", got, want)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if got := congestionControl(t, accepted.(*net.TCPConn)); got != want {
		t.Errorf("accepted: got %s, want %s", got, want)
	}
}
