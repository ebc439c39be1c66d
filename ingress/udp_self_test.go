package ingress

import (
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/testtcp"
	"adit/internal/udpsocket"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// A port that is made its own visitor does not talk to itself.
func TestUDPFromItself(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	u := NewUDP(UDPOptions{
		Router: routeFunc(func(string) (Target, error) { asked.Add(1); return Target{}, ErrNoRoute }),
		Ports:  []PortRange{{First: 1024, Last: 65535}},
	})
	defer u.Close()
	addr, release, err := u.ListenAny("a", netip.IPv4Unspecified(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	p := u.ports.open[addr.Port()].door
	if _, err := p.socket.WriteToUDP([]byte("x"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(addr.Port())}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); u.Stats().Dropped == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it was not dropped: %+v", u.Stats())
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the router was asked %d times, want not at all", n)
	}
}

// Nor does it talk to itself by way of another address of the machine, where
// upstreams answer everything.
func TestUDPBetweenItsAddresses(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("127.0.0.2 is no address of the machine, or nobody tells that it was sent to")
	}
	tun, ln := tunneltest.NewMemory("a")
	var agent sync.WaitGroup
	agent.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.(tunnel.Incoming).Accept()
			agent.Go(func() {
				defer c.Close()
				testtcp.Echo(c)
			})
		}
	})
	defer agent.Wait()
	defer ln.Close()
	defer tun.Close()
	u := NewUDP(UDPOptions{
		Router: routeFunc(func(string) (Target, error) { return Target{Tunnel: tun}, nil }),
		Ports:  []PortRange{{First: 1024, Last: 65535}},
	})
	defer u.Close()
	addr, release, err := u.ListenAny("a", netip.IPv4Unspecified(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	p := u.ports.open[addr.Port()].door
	from, to := netip.AddrFrom4([4]byte{127, 0, 0, 2}), netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if done, err := p.many.Send(udpsocket.Envelope{To: netip.AddrPortFrom(to, addr.Port()), From: from}, [][]byte{{'x'}}); err != nil || done.Sent != 1 {
		t.Fatalf("Send = %+v, %v", done, err)
	}
	for end := time.Now().Add(10 * time.Second); u.Stats().Dropped == 0; time.Sleep(time.Millisecond) {
		if n := u.Stats().DatagramsReceived; n > 2 || time.Now().After(end) {
			t.Fatalf("%d datagrams were received, want that which was sent and one answer: %+v", n, u.Stats())
		}
	}
}
