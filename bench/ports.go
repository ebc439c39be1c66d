package main

import (
	"fmt"
	"net"
	"os"
	"sync"
)

// Ports come from below the range of ephemeral ports, so that the source
// ports of the load never collide with them.
const (
	portMin = 18000
	portMax = 31899
)

type portAlloc struct {
	mu   sync.Mutex
	next int
}

// ports starts at another place in each process, so that two harnesses side by
// side seldom look at the same port.
var ports = &portAlloc{next: portMin + (os.Getpid()%64)*128}

// get returns a port that nothing listens on, of TCP or UDP.
func (p *portAlloc) get() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var last error
	for range portMax - portMin {
		if p.next++; p.next > portMax {
			p.next = portMin
		}
		ln, err := net.Listen("tcp", fmt.Sprintf(":%d", p.next))
		if err != nil {
			last = err
			continue
		}
		pc, err := net.ListenPacket("udp", fmt.Sprintf(":%d", p.next))
		ln.Close()
		if err != nil {
			last = err
			continue
		}
		pc.Close()
		return p.next, nil
	}
	return 0, fmt.Errorf("no free port from %d to %d: %w", portMin, portMax, last)
}
