package ingress

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"

	"adit/tunnel"
)

// What the errors of TCP.Listen and UDP.Listen wrap.
var (
	ErrPortNotAllowed = errors.New("ingress: port not allowed")
	ErrPortInUse      = errors.New("ingress: port in use")
	ErrNoPort         = errors.New("ingress: no port free")
	ErrAddrNotAllowed = errors.New("ingress: address not allowed")
	ErrNoAddr         = errors.New("ingress: not an address of this machine")
)

// A PortRange is inclusive at both ends.
type PortRange struct{ First, Last uint16 }

func (r PortRange) size() int {
	if r.First == 0 || r.Last < r.First {
		return 0
	}
	return int(r.Last) - int(r.First) + 1
}

// A portDoor is what serves the visitors of one port.
type portDoor interface {
	// addr returns the address that is listened on.
	addr() netip.AddrPort

	// close ends it, and returns when the port is free.
	close()
}

// ports are the public ports of an ingress. Each belongs to one name and has
// one address; what else is asked for of it is in use.
type ports[D portDoor] struct {
	on      netip.Addr // to listen on; the zero Addr means all
	suffix  string     // of the keys for the Router
	listen  func(key string, at netip.AddrPort) (D, error)
	serve   func(D) // begins to; running counts what it begins
	running *sync.WaitGroup

	mu     sync.Mutex // guards the fields below, and refs of each openPort
	ranges portRanges // that may be opened; replaced as a whole
	closed bool       // no port is opened any more
	open   map[uint16]*openPort[D]
}

// An openPort is a port that is open, being opened, or being closed.
type openPort[D portDoor] struct {
	name   tunnel.ID
	on     netip.Addr
	opened chan struct{} // closed when door or err is set
	door   D
	err    error
	ended  chan struct{} // closed when the port is free again
	refs   int           // 0 means that it is being closed
}

// Listen opens a port for a name. Several calls for one port, name and address
// share it, and the last of their releases closes it. on is the address to
// listen on: one of the machine if the ingress listens on all, and otherwise
// that of the ingress; the zero Addr is always the latter. An unspecified one of
// IPv4 is all of IPv4.
//
// The error wraps ErrPortNotAllowed, ErrPortInUse (by another name, at another
// address or by another program), ErrAddrNotAllowed, ErrNoAddr, net.ErrClosed
// after Close or Shutdown, or it is the system's.
func (p *ports[D]) Listen(name tunnel.ID, port uint16, on netip.Addr) (addr netip.AddrPort, release func(), err error) {
	if !p.given().contain(port) {
		return netip.AddrPort{}, nil, fmt.Errorf("listen on port %d: %w", port, ErrPortNotAllowed)
	}
	return p.share(name, port, on)
}

// Open is Listen for a port that the operator has named, which need not be one
// of those that may be opened otherwise.
func (p *ports[D]) Open(name tunnel.ID, port uint16) (addr netip.AddrPort, release func(), err error) {
	return p.share(name, port, netip.Addr{})
}

func (p *ports[D]) share(name tunnel.ID, port uint16, on netip.Addr) (addr netip.AddrPort, release func(), err error) {
	o, err := p.get(name, port, on, true)
	if err != nil {
		return netip.AddrPort{}, nil, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return o.door.addr(), sync.OnceFunc(func() { p.release(port, o) }), nil
}

// ListenAny opens a port that is free, for a name. allow may rule out ports;
// nil rules out none. It is like Listen otherwise, and its error wraps
// ErrNoPort if no port is both allowed and free.
func (p *ports[D]) ListenAny(name tunnel.ID, on netip.Addr, allow func(port uint16) bool) (addr netip.AddrPort, release func(), err error) {
	ranges := p.given()
	total := ranges.total()
	if total == 0 {
		return netip.AddrPort{}, nil, fmt.Errorf("listen: %w: none is configured", ErrNoPort)
	}
	start := rand.IntN(total)
	for i := range total {
		port := ranges.at((start + i) % total)
		if allow != nil && !allow(port) {
			continue
		}
		o, err := p.get(name, port, on, false)
		switch {
		case err == nil:
			return o.door.addr(), sync.OnceFunc(func() { p.release(port, o) }), nil
		case !errors.Is(err, ErrPortInUse):
			return netip.AddrPort{}, nil, fmt.Errorf("listen on port %d: %w", port, err)
		}
	}
	return netip.AddrPort{}, nil, fmt.Errorf("listen: %w", ErrNoPort)
}

// SetPorts replaces the ports that may be opened. Those that are open stay so.
func (p *ports[D]) SetPorts(ranges []PortRange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ranges = ranges
}

// Ports returns the ports that may be opened, which the caller does not change.
func (p *ports[D]) Ports() []PortRange { return p.given() }

func (p *ports[D]) given() portRanges {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ranges
}

// portRanges are ports that may be opened.
type portRanges []PortRange

// total returns how many they are.
func (p portRanges) total() (n int) {
	for _, r := range p {
		n += r.size()
	}
	return n
}

func (p portRanges) contain(port uint16) bool {
	for _, r := range p {
		if r.size() > 0 && r.First <= port && port <= r.Last {
			return true
		}
	}
	return false
}

// at returns the i-th of all.
func (p portRanges) at(i int) uint16 {
	for _, r := range p {
		if n := r.size(); i < n {
			return r.First + uint16(i)
		} else {
			i -= n
		}
	}
	panic("ingress: port index out of range")
}

// place returns where to listen for an address that was asked for.
func (p *ports[D]) place(on netip.Addr) (netip.Addr, error) {
	on = on.Unmap()
	switch {
	case !on.IsValid(), on == p.on:
		return p.on, nil
	case p.on.IsValid() && !p.on.IsUnspecified(),
		p.on.Is4() && !on.Is4(),
		on.Zone() != "", on.IsMulticast(), on.IsLinkLocalUnicast() && on.Is6():
		return netip.Addr{}, fmt.Errorf("%v: %w", on, ErrAddrNotAllowed)
	}
	return on, nil
}

// get returns the open port, and opens it if need be. Unless share is set, a
// port that the name has already counts as in use.
func (p *ports[D]) get(name tunnel.ID, port uint16, on netip.Addr, share bool) (*openPort[D], error) {
	on, err := p.place(on)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	for {
		o := p.open[port]
		switch {
		case p.closed:
			p.mu.Unlock()
			return nil, net.ErrClosed
		case o == nil:
			o = &openPort[D]{name: name, on: on, opened: make(chan struct{}), ended: make(chan struct{}), refs: 1}
			p.open[port] = o
			p.running.Add(1) // while nobody waits for the last to end
			p.mu.Unlock()
			defer p.running.Done()
			return o, p.begin(o, port)
		case o.refs > 0 && (!share || o.name != name || o.on != on):
			p.mu.Unlock()
			return nil, ErrPortInUse
		case o.refs > 0:
			o.refs++
			p.mu.Unlock()
			<-o.opened
			return o, o.err
		}
		p.mu.Unlock() // it is being closed, which does not take long
		<-o.ended
		p.mu.Lock()
	}
}

// begin opens a port that is in the table already.
func (p *ports[D]) begin(o *openPort[D], port uint16) error {
	door, err := p.listen(":"+strconv.Itoa(int(port))+p.suffix, netip.AddrPortFrom(o.on, port))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		err = fmt.Errorf("%w: %w", ErrPortInUse, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		err = fmt.Errorf("%v: %w: %w", o.on, ErrNoAddr, err)
	}
	listening := err == nil
	p.mu.Lock()
	if listening && p.closed {
		err = net.ErrClosed
	}
	if err != nil {
		o.err = err
		delete(p.open, port)
		close(o.ended)
	} else {
		o.door = door
	}
	close(o.opened)
	p.mu.Unlock()
	if listening {
		p.serve(door)
		if err != nil {
			door.close()
		}
	}
	return err
}

// release takes back one Listen, and closes the port with the last one.
func (p *ports[D]) release(port uint16, o *openPort[D]) {
	p.mu.Lock()
	o.refs--
	last := o.refs == 0
	p.mu.Unlock()
	if !last {
		return
	}
	o.door.close()
	p.mu.Lock()
	delete(p.open, port)
	p.mu.Unlock()
	close(o.ended)
}

// stop lets no port open any more, and returns those that are open.
func (p *ports[D]) stop() (doors []D) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, o := range p.open {
		select {
		case <-o.opened:
			doors = append(doors, o.door)
		default:
		}
	}
	return doors
}

// count returns how many ports are open.
func (p *ports[D]) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, o := range p.open {
		select {
		case <-o.opened:
			n++
		default:
		}
	}
	return n
}

// listenAt returns a network, "tcp" or "udp", and an address as package net takes
// them.
func listenAt(network string, at netip.AddrPort) (string, string) {
	switch {
	case !at.Addr().IsValid():
		return network, ":" + strconv.Itoa(int(at.Port()))
	case at.Addr().Is4():
		network += "4" // else 0.0.0.0 would be all of IPv6 too
	}
	return network, at.String()
}
