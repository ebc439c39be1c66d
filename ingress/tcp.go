package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"adit/internal/lastcall"
	"adit/internal/pacing"
	"adit/internal/proxyheader"
	"adit/policy"
	"adit/tunnel"
)

// What the errors of TCP.Listen wrap.
var (
	ErrPortNotAllowed = errors.New("ingress: port not allowed")
	ErrPortInUse      = errors.New("ingress: port in use")
	ErrNoPort         = errors.New("ingress: no port free")
)

// A PortRange is inclusive at both ends.
type PortRange struct{ First, Last uint16 }

// TCPOptions configures a TCP ingress. Router is required.
type TCPOptions struct {
	// Router is asked for ":" and the port.
	Router Router

	// Addr is the address to listen on; the zero Addr means all.
	Addr netip.Addr

	// Ports are those that may be opened. If there are none, none may.
	Ports []PortRange

	// MaxVisitors is how many visitors there may be at once, and
	// MaxVisitorsPerPort how many at one port; 0 means 10000 and 5000.
	// Further ones are reset.
	MaxVisitors, MaxVisitorsPerPort int

	// OpenTimeout bounds the opening of a stream; 0 means 20 s. The Router
	// decides on its own how long it lets a visitor wait before that.
	OpenTimeout time.Duration

	// Idle ends a visitor's connection that has carried no byte for so long;
	// 0 means never.
	Idle time.Duration

	// OnVisit is called after each visitor; it must not block.
	OnVisit func(Finished)

	// ProxyProtocolFrom are addresses whose conns begin with a header of the
	// PROXY protocol, which says who the visitor is. Those without are closed.
	ProxyProtocolFrom []netip.Prefix

	// Logger receives the ingress's events. If nil, nothing is logged.
	Logger *slog.Logger
}

// TCP is the door for visitors of public TCP ports. What they send goes
// unchanged to the tunnel that the Router has for the port, and back; a
// half-close goes through, and an error on one side is a reset on the other.
// Its methods are safe for concurrent use.
type TCP struct {
	opts     TCPOptions     // constant after NewTCP
	running  sync.WaitGroup // accept loops and visitors
	guard    atomic.Pointer[policy.Guard]
	counters tcpCounters

	mu       sync.Mutex // guards the fields below, and all tcpPorts
	closed   bool       // no port is opened any more
	over     bool       // and no visitor let in
	ports    map[uint16]*tcpPort
	visitors map[*tcpVisitor]struct{}
}

// A tcpPort is an open port.
type tcpPort struct {
	name   tunnel.ID
	key    string        // for the Router
	opened chan struct{} // closed when ln or err is set
	ln     net.Listener
	err    error
	stop   context.CancelFunc // ends the accept loop's pauses
	ended  chan struct{}      // closed when the accept loop has ended

	refs     int // 0 means that the port is being closed
	visitors int
}

// NewTCP returns an ingress without open ports.
func NewTCP(opts TCPOptions) *TCP {
	if opts.MaxVisitors <= 0 {
		opts.MaxVisitors = 10_000
	}
	if opts.MaxVisitorsPerPort <= 0 {
		opts.MaxVisitorsPerPort = 5_000
	}
	if opts.OpenTimeout <= 0 {
		opts.OpenTimeout = 20 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	t := &TCP{
		opts:     opts,
		ports:    make(map[uint16]*tcpPort),
		visitors: make(map[*tcpVisitor]struct{}),
	}
	t.counters.init()
	return t
}

// SetPolicy lets g decide on all visitors that come from now on, beside the
// policies of the tunnels that they go to; nil lets everybody in.
func (t *TCP) SetPolicy(g *policy.Guard) { t.guard.Store(g) }

// Listen opens a port for a name. Several calls for one port and name share
// the listener, which is closed by the last of their releases; visitors that
// have come by then stay.
//
// The error wraps ErrPortNotAllowed, ErrPortInUse (by another name or another
// program), net.ErrClosed after Close or Shutdown, or it is the system's.
func (t *TCP) Listen(name tunnel.ID, port uint16) (addr netip.AddrPort, release func(), err error) {
	if !t.allowed(port) {
		return netip.AddrPort{}, nil, fmt.Errorf("listen on port %d: %w", port, ErrPortNotAllowed)
	}
	return t.Open(name, port)
}

// Open is Listen for a port that the operator has named, which need not be one
// of Options.Ports.
func (t *TCP) Open(name tunnel.ID, port uint16) (addr netip.AddrPort, release func(), err error) {
	p, err := t.open(name, port, true)
	if err != nil {
		return netip.AddrPort{}, nil, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return tcpAddrPort(p.ln.Addr()), sync.OnceFunc(func() { t.release(port, p) }), nil
}

// ListenAny opens a port that is free, for a name. allow may rule out ports;
// nil rules out none. It is like Listen otherwise, and its error wraps
// ErrNoPort if no port is both allowed and free.
func (t *TCP) ListenAny(name tunnel.ID, allow func(port uint16) bool) (addr netip.AddrPort, release func(), err error) {
	total := 0
	for _, r := range t.opts.Ports {
		total += r.size()
	}
	if total == 0 {
		return netip.AddrPort{}, nil, fmt.Errorf("listen: %w: none is configured", ErrNoPort)
	}
	start := rand.IntN(total)
	for i := range total {
		port := t.portAt((start + i) % total)
		if allow != nil && !allow(port) {
			continue
		}
		p, err := t.open(name, port, false)
		switch {
		case err == nil:
			return tcpAddrPort(p.ln.Addr()), sync.OnceFunc(func() { t.release(port, p) }), nil
		case !errors.Is(err, ErrPortInUse):
			return netip.AddrPort{}, nil, fmt.Errorf("listen on port %d: %w", port, err)
		}
	}
	return netip.AddrPort{}, nil, fmt.Errorf("listen: %w", ErrNoPort)
}

func (r PortRange) size() int {
	if r.First == 0 || r.Last < r.First {
		return 0
	}
	return int(r.Last) - int(r.First) + 1
}

func (t *TCP) allowed(port uint16) bool {
	for _, r := range t.opts.Ports {
		if r.size() > 0 && r.First <= port && port <= r.Last {
			return true
		}
	}
	return false
}

// portAt returns the i-th of all ports that may be opened.
func (t *TCP) portAt(i int) uint16 {
	for _, r := range t.opts.Ports {
		if n := r.size(); i < n {
			return r.First + uint16(i)
		} else {
			i -= n
		}
	}
	panic("ingress: port index out of range")
}

// open returns the open port, and opens it if need be. Unless share is set, a
// port that the name has already counts as in use.
func (t *TCP) open(name tunnel.ID, port uint16, share bool) (*tcpPort, error) {
	t.mu.Lock()
	for {
		p := t.ports[port]
		switch {
		case t.closed:
			t.mu.Unlock()
			return nil, net.ErrClosed
		case p == nil:
			p = &tcpPort{
				name:   name,
				key:    ":" + strconv.Itoa(int(port)),
				opened: make(chan struct{}),
				ended:  make(chan struct{}),
				refs:   1,
			}
			t.ports[port] = p
			t.mu.Unlock()
			return p, t.listen(p, port)
		case p.refs > 0 && (!share || p.name != name):
			t.mu.Unlock()
			return nil, ErrPortInUse
		case p.refs > 0:
			p.refs++
			t.mu.Unlock()
			<-p.opened
			return p, p.err
		}
		t.mu.Unlock() // it is being closed, which does not take long
		<-p.ended
		t.mu.Lock()
	}
}

// listen opens p's listener and starts its accept loop.
func (t *TCP) listen(p *tcpPort, port uint16) error {
	lc := net.ListenConfig{Control: pacing.Control, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 4,
	}}
	lc.SetMultipathTCP(false) // see package lastcall
	addr := ":" + strconv.Itoa(int(port))
	if t.opts.Addr.IsValid() {
		addr = netip.AddrPortFrom(t.opts.Addr, port).String()
	}
	ctx, stop := context.WithCancel(context.Background())
	ln, err := lc.Listen(ctx, "tcp", addr)

	t.mu.Lock()
	defer t.mu.Unlock()
	defer close(p.opened)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		err = fmt.Errorf("%w: %w", ErrPortInUse, err)
	case err == nil && t.closed:
		ln.Close()
		err = net.ErrClosed
	}
	if err != nil {
		stop()
		p.err = err
		close(p.ended)
		if t.ports[port] == p {
			delete(t.ports, port)
		}
		return err
	}
	p.ln, p.stop = proxyheader.Listen(ln, t.opts.ProxyProtocolFrom), stop
	t.running.Go(func() {
		defer close(p.ended)
		t.accept(ctx, p)
	})
	return nil
}

// release takes back one Listen, and closes the port with the last one.
func (t *TCP) release(port uint16, p *tcpPort) {
	t.mu.Lock()
	p.refs--
	last := p.refs == 0
	t.mu.Unlock()
	if !last {
		return
	}
	p.stop()
	p.ln.Close()
	<-p.ended // the port is free now
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ports[port] == p {
		delete(t.ports, port)
	}
}

// closePorts closes all ports, lets no new ones open, and waits for neither. In
// good order, visitors that wait in their queues are let in first.
func (t *TCP) closePorts(order bool) {
	t.mu.Lock()
	t.closed = true
	t.over = t.over || !order
	var open []*tcpPort
	for _, p := range t.ports {
		if p.ln != nil {
			open = append(open, p)
		}
	}
	t.mu.Unlock()
	for _, p := range open {
		p.stop()
		if order {
			lastcall.Begin(p.ln)
		} else {
			p.ln.Close()
		}
	}
}

// Shutdown closes all ports and waits until the last visitor has gone. When
// ctx ends first, it resets those that are left and returns ctx's error.
func (t *TCP) Shutdown(ctx context.Context) error {
	t.closePorts(true)
	gone := make(chan struct{})
	go func() {
		t.running.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		t.Close()
		<-gone
		return ctx.Err()
	}
}

// Close closes all ports and resets all visitors. It returns when they have
// gone.
func (t *TCP) Close() error {
	t.closePorts(false)
	t.mu.Lock()
	left := make([]*tcpVisitor, 0, len(t.visitors))
	for v := range t.visitors {
		left = append(left, v)
	}
	t.mu.Unlock()
	for _, v := range left {
		v.abort()
	}
	t.running.Wait()
	return nil
}

// Visitors returns the number of visitors.
func (t *TCP) Visitors() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.visitors)
}

// tcpAddrPort returns a TCP address as netip has it, IPv4 as IPv4.
func tcpAddrPort(a net.Addr) netip.AddrPort {
	ta, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := ta.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
