package agent_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"adit/auth"
	"adit/tunnel"
)

// Openings that were given up keep no others waiting, however long the server
// would have tried.
func TestOpenTargetsThatAreGivenUp(t *testing.T) {
	t.Parallel()
	silent := silentListener(t)
	f := newFixture(t)
	echo := echoUpstream(t)
	for _, addr := range []string{silent, echo} {
		r, err := auth.ParseForwardRule(addr)
		if err != nil {
			t.Fatal(err)
		}
		f.forward = append(f.forward, r)
	}
	f.stop()
	f.start()
	a := opener(t, f.options())
	open := func(ctx context.Context, n int) {
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				if c, err := a.OpenTarget(ctx, targetAt(t, silent)); err == nil {
					c.Close()
					t.Error("a silent target was opened")
				}
			})
		}
		wg.Wait()
	}
	first, err := a.OpenTarget(t.Context(), targetAt(t, echo)) // there is a session
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	for range 8 {
		given, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
		open(given, 80)
		stop()
	}
	begin := time.Now()
	c, err := a.OpenTarget(t.Context(), targetAt(t, echo))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("it took %s to open another target", took)
	}
}

func targetAt(t *testing.T, addr string) tunnel.Target {
	t.Helper()
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return tunnel.Target{Network: tunnel.TCP, Host: a.Addr().String(), Port: a.Port()}
}

// silentListener listens, and has no room for connections: whoever dials gets
// no answer.
func silentListener(t *testing.T) (addr string) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr = fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
	for range 20 {
		c, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("this system has room for connections in a queue of length 0")
	return ""
}
