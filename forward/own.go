package forward

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// ownFor is for how long the addresses of this machine are taken to be what they
// were.
const ownFor = 5 * time.Second

// An ownAddrs knows the addresses of this machine. It is safe for concurrent use.
type ownAddrs struct {
	mu    sync.Mutex // guards the fields below
	until time.Time
	addrs map[netip.Addr]bool
}

// has reports whether a is an address of this machine, by what list returned
// last. If that fails, every address counts as one.
func (o *ownAddrs) has(a netip.Addr, list func() ([]net.Addr, error)) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := time.Now(); now.After(o.until) {
		found, err := list()
		if err != nil {
			return true
		}
		o.addrs, o.until = make(map[netip.Addr]bool, len(found)), now.Add(ownFor)
		for _, f := range found {
			if n, ok := f.(*net.IPNet); ok {
				ip, _ := netip.AddrFromSlice(n.IP)
				o.addrs[ip.Unmap()] = true
			}
		}
	}
	return o.addrs[a.Unmap().WithZone("")]
}
