package ingress_test

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inNetwork runs f in a network of its own, with an interface "d0" that has
// 10.9.0.1/24, fe80::1, fe80::9 and 2001:db8::1. All sockets are to be opened by f itself.
func inNetwork(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	ip, err := exec.LookPath("ip")
	if err != nil {
		t.Skip("there is no ip here")
	}
	var denied error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if denied = unix.Unshare(unix.CLONE_NEWNET); denied != nil {
			return
		}
		for _, args := range []string{
			"link set lo up",
			"link add d0 type veth peer name d1",
			"link set d1 up",
			"link set d0 up",
			"addr add 10.9.0.1/24 brd + dev d0",
			"addr add fe80::1/64 dev d0 nodad",
			"addr add fe80::9/64 dev d0 nodad",
			"addr add 2001:db8::1/64 dev d0 nodad",
		} {
			if out, err := exec.Command(ip, strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v: %s", args, err, out)
				return
			}
		}
		f(t)
	}()
	<-done
	if errors.Is(denied, unix.EPERM) {
		t.Skip("no network of our own: ", denied)
	} else if denied != nil {
		t.Fatal(denied)
	}
}

// Answers reach visitors also where they have sent to an address that is none of
// the machine's own, or one that means something on one interface alone.
func TestUDPOddAddresses(t *testing.T) {
	t.Parallel()
	inNetwork(t, func(t *testing.T) {
		for on, tos := range map[netip.Addr]map[string]string{ // with where they send from, if that is not left to the system
			{}:                      {"10.9.0.1": "", "10.9.0.255": "", "fe80::1%d0": "", "fe80::9%d0": "2001:db8::1", "2001:db8::1": "", "ff02::1%d0": ""},
			netip.IPv4Unspecified(): {"10.9.0.1": "", "10.9.0.255": ""},
		} {
			d := newUDPDoorOn(t, on)
			for to, from := range tos {
				at, err := net.ResolveUDPAddr("udp", net.JoinHostPort(to, strconv.Itoa(int(d.at.Port()))))
				if err != nil {
					t.Error(err)
					return
				}
				c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)})
				if err != nil {
					t.Error(err)
					return
				}
				buf := make([]byte, 10)
				var n int
				for try := 0; try < 20 && n == 0; try++ { // an interface that has just come up may lose the first ones
					c.WriteTo([]byte("hello"), at)
					c.SetReadDeadline(time.Now().Add(250 * time.Millisecond))
					n, _, err = c.ReadFrom(buf)
				}
				if string(buf[:n]) != "hello" {
					t.Errorf("listening on %v, sent to %s: answer %q, %v, want hello", on, to, buf[:n], err)
				}
				c.Close()
			}
		}
	})
}
