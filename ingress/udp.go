package ingress

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/datagrams"
	"adit/policy"
)

// UDPOptions configures a UDP ingress. Router is required.
type UDPOptions struct {
	// Router is asked for ":", the port and "/udp".
	Router Router

	// Addr is the address to listen on, unless another is asked for; the zero
	// Addr means all.
	Addr netip.Addr

	// Ports are those that may be opened. If there are none, none may. See
	// also SetPorts.
	Ports []PortRange

	// MaxVisitors is how many visitors there may be at once, and
	// MaxVisitorsPerPort how many at one port; 0 means 10000 and 4096. One
	// more at a port takes the place of one that nothing has answered within a
	// second, or that has been quiet for 5 s; if there is none, what it
	// sends is dropped.
	MaxVisitors, MaxVisitorsPerPort int

	// OpenTimeout bounds the opening of a stream; 0 means 20 s. The Router
	// decides on its own how long it lets a visitor wait before that.
	OpenTimeout time.Duration

	// Idle is for how long neither a visitor nor what answers it may have sent
	// anything, and Unanswered for how long a visitor to whom nothing has come
	// back yet; 0 means 2 minutes and 30 s. It is forgotten then.
	Idle, Unanswered time.Duration

	// OnVisit is called after each visitor; it must not block. Of those to
	// whom nothing has come back it is told of 100 in a second at most, since
	// their addresses may be made up.
	OnVisit func(Finished)

	// Logger receives the ingress's events. If nil, nothing is logged.
	Logger *slog.Logger
}

// Defaults of UDPOptions.
const (
	maxVisitorsUDP        = 10_000
	maxVisitorsPerPortUDP = 4096 // half of the streams that an agent takes of a session
	unansweredUDP         = 30 * time.Second
)

// UDP is the door for visitors of public UDP ports. A visitor is an address and
// port that sends, and the address that it sends to; each has a stream of
// datagrams to the tunnel that the Router has for the port, and what comes back
// goes out from that very address. Nothing else is ever sent to anybody. When a
// port is closed its visitors are forgotten. Its methods are safe for concurrent
// use.
type UDP struct {
	*ports[*udpPort]
	opts     UDPOptions     // constant after NewUDP
	running  sync.WaitGroup // loops that read
	guard    atomic.Pointer[policy.Guard]
	counters udpCounters
	visitors atomic.Int64 // that have a stream, or wait for one
	untold   unheard
}

// NewUDP returns an ingress without open ports.
func NewUDP(opts UDPOptions) *UDP {
	if opts.MaxVisitors <= 0 {
		opts.MaxVisitors = maxVisitorsUDP
	}
	if opts.MaxVisitorsPerPort <= 0 {
		opts.MaxVisitorsPerPort = maxVisitorsPerPortUDP
	}
	if opts.OpenTimeout <= 0 {
		opts.OpenTimeout = 20 * time.Second
	}
	if opts.Unanswered <= 0 {
		opts.Unanswered = unansweredUDP
	}
	if opts.Idle <= 0 {
		opts.Idle = datagrams.IdleTimeout
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	u := &UDP{opts: opts}
	u.ports = &ports[*udpPort]{
		ranges: opts.Ports,
		on:     opts.Addr,
		suffix: "/udp",
		listen: u.listen,
		serve: func(p *udpPort) {
			u.running.Go(func() {
				defer close(p.ended)
				p.read()
			})
		},
		running: &u.running,
		open:    make(map[uint16]*openPort[*udpPort]),
	}
	u.counters.init()
	return u
}

// SetPolicy lets g decide on all visitors that come from now on, beside the
// policies of the tunnels that they go to; nil lets everybody in.
func (u *UDP) SetPolicy(g *policy.Guard) { u.guard.Store(g) }

// Visitors returns the number of visitors.
func (u *UDP) Visitors() int { return int(u.visitors.Load()) }

// listen opens the socket of a port.
func (u *UDP) listen(key string, at netip.AddrPort) (*udpPort, error) {
	var lc net.ListenConfig
	network, addr := listenAt("udp", at)
	pc, err := lc.ListenPacket(context.Background(), network, addr)
	if err != nil {
		return nil, err
	}
	return newUDPPort(u, key, pc.(*net.UDPConn)), nil
}

// Shutdown takes no new visitors, and waits until those that there are have been
// quiet for a second. When ctx ends first, it forgets those that are left and
// returns ctx's error. All ports are closed then.
func (u *UDP) Shutdown(ctx context.Context) error {
	open := u.ports.stop()
	for _, p := range open {
		p.flows.Drain()
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for _, p := range open {
			p.flows.Wait()
		}
	}()
	var err error
	select {
	case <-gone:
	case <-ctx.Done():
		err = ctx.Err()
	}
	u.Close()
	<-gone
	return err
}

// Close closes all ports and forgets all visitors. It returns when their streams
// have ended.
func (u *UDP) Close() error {
	var closing sync.WaitGroup
	for _, p := range u.ports.stop() {
		closing.Go(p.close)
	}
	closing.Wait()
	u.running.Wait()
	return nil
}

// unheard bounds how many visitors are told of to whom nothing has come back.
type unheard struct {
	mu     sync.Mutex // guards the fields below
	second int64      // in Unix time
	n      int        // told of in it
}

const maxUnheard = 100 // in a second

// allow reports whether one more may be told of.
func (u *unheard) allow(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if s := now.Unix(); s != u.second {
		u.second, u.n = s, 0
	}
	u.n++
	return u.n <= maxUnheard
}
