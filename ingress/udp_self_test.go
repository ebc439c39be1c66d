package ingress

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
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
