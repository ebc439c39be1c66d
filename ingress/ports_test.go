package ingress_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"adit/ingress"
	"adit/internal/testport"
	"adit/tunnel"
)

// Ports are bound, taken over and given up by many at once, until all are closed.
// No port has two names at a time, and who is told that it has one has it.
func TestPortsAtOnce(t *testing.T) {
	t.Parallel()
	type door interface {
		Listen(tunnel.ID, uint16, netip.Addr) (netip.AddrPort, func(), error)
		ListenAny(tunnel.ID, netip.Addr, func(uint16) bool) (netip.AddrPort, func(), error)
		Close() error
	}
	first := testport.One(t)
	ranges := []ingress.PortRange{{First: first, Last: first}}
	for range 3 {
		p := testport.One(t)
		ranges = append(ranges, ingress.PortRange{First: p, Last: p})
	}
	none := routerFunc(func(context.Context, string) (ingress.Target, error) { return ingress.Target{}, ingress.ErrNoRoute })
	for name, d := range map[string]door{
		"tcp": ingress.NewTCP(ingress.TCPOptions{Router: none, Addr: loopback, Ports: ranges}),
		"udp": ingress.NewUDP(ingress.UDPOptions{Router: none, Addr: loopback, Ports: ranges}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var holders [1 << 16]struct {
				sync.Mutex
				name tunnel.ID
				n    int
			}
			var had atomic.Int32
			var wg sync.WaitGroup
			half := make(chan struct{})
			for i := range 16 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(i), 7))
					for j := range 400 {
						if i == 0 && j == 200 {
							close(half)
						}
						id := tunnel.ID(fmt.Sprint("n", rng.IntN(3)))
						var at netip.AddrPort
						var release func()
						var err error
						if rng.IntN(3) == 0 {
							at, release, err = d.ListenAny(id, netip.Addr{}, nil)
						} else {
							at, release, err = d.Listen(id, ranges[rng.IntN(len(ranges))].First, netip.Addr{})
						}
						switch {
						case errors.Is(err, ingress.ErrPortInUse), errors.Is(err, ingress.ErrNoPort), errors.Is(err, net.ErrClosed):
							continue
						case err != nil:
							t.Error(err)
							continue
						}
						had.Add(1)
						h := &holders[at.Port()]
						h.Lock()
						if h.n > 0 && h.name != id {
							t.Errorf("port %d is %s's and %s's", at.Port(), h.name, id)
						}
						h.name = id
						h.n++
						h.Unlock()
						if rng.IntN(2) == 0 && name == "tcp" {
							if c, err := net.Dial("tcp", at.String()); err == nil {
								c.Close()
							}
						}
						h.Lock()
						h.n--
						h.Unlock()
						release()
						release() // does nothing
					}
				})
			}
			<-half
			d.Close()
			wg.Wait()
			d.Close()
			if had.Load() == 0 {
				t.Error("nobody ever had a port")
			}
		})
	}
}
