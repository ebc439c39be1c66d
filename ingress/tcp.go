package ingress

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/lastcall"
	"adit/internal/pacing"
	"adit/internal/proxyheader"
	"adit/policy"
)

// TCPOptions configures a TCP ingress. Router is required.
type TCPOptions struct {
	// Router is asked for ":" and the port.
	Router Router

	// Addr is the address to listen on, unless another is asked for; the zero
	// Addr means all.
	Addr netip.Addr

	// Ports are those that may be opened. If there are none, none may. See
	// also SetPorts.
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
// When a port is closed its visitors stay. Its methods are safe for concurrent
// use.
type TCP struct {
	*ports[*tcpPort]
	opts     TCPOptions     // constant after NewTCP
	running  sync.WaitGroup // accept loops and visitors
	guard    atomic.Pointer[policy.Guard]
	counters tcpCounters

	mu       sync.Mutex // guards the fields below, and the visitors of all tcpPorts
	over     bool       // no visitor is let in any more
	visitors map[*tcpVisitor]struct{}
}

// A tcpPort is an open port.
type tcpPort struct {
	key      string // for the Router
	ln       net.Listener
	ctx      context.Context    // of the accept loop's pauses
	stop     context.CancelFunc // ends them
	ended    chan struct{}      // closed when the accept loop has ended
	visitors int
}

func (p *tcpPort) addr() netip.AddrPort { return tcpAddrPort(p.ln.Addr()) }

func (p *tcpPort) close() {
	p.stop()
	p.ln.Close()
	<-p.ended
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
	t := &TCP{opts: opts, visitors: make(map[*tcpVisitor]struct{})}
	t.ports = &ports[*tcpPort]{
		ranges: opts.Ports,
		on:     opts.Addr,
		listen: t.listen,
		serve: func(p *tcpPort) {
			t.running.Go(func() {
				defer close(p.ended)
				t.accept(p.ctx, p)
			})
		},
		running: &t.running,
		open:    make(map[uint16]*openPort[*tcpPort]),
	}
	t.counters.init()
	return t
}

// SetPolicy lets g decide on all visitors that come from now on, beside the
// policies of the tunnels that they go to; nil lets everybody in.
func (t *TCP) SetPolicy(g *policy.Guard) { t.guard.Store(g) }

// listen opens the listener of a port.
func (t *TCP) listen(key string, at netip.AddrPort) (*tcpPort, error) {
	lc := net.ListenConfig{Control: pacing.Control, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 4,
	}}
	lc.SetMultipathTCP(false) // see package lastcall
	network, addr := listenAt("tcp", at)
	ln, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		return nil, err
	}
	p := &tcpPort{key: key, ln: proxyheader.Listen(ln, t.opts.ProxyProtocolFrom), ended: make(chan struct{})}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p, nil
}

// closePorts closes all ports, lets no new ones open, and waits for neither. In
// good order, visitors that wait in their queues are let in first.
func (t *TCP) closePorts(order bool) {
	open := t.ports.stop()
	t.mu.Lock()
	t.over = t.over || !order
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
