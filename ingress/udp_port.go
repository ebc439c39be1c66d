package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"adit/internal/backoff"
	"adit/internal/datagrams"
	"adit/internal/relay"
	"adit/internal/udpsocket"
	"adit/policy"
	"adit/tunnel"
)

// socketBuffer is asked of the system for what waits to be read from a port, and
// to be sent; it may give less.
const socketBuffer = 1 << 20

// errFull is why a visitor has no stream when there are too many.
var errFull = errors.New("too many visitors")

// A udpPort is an open port.
type udpPort struct {
	of     *UDP
	key    string // for the Router
	socket *net.UDPConn
	many   *udpsocket.Socket // socket
	bound  netip.AddrPort
	flows  *datagrams.Flows[udpKey]
	ctx    context.Context // of its visitors
	stop   context.CancelFunc
	ended  chan struct{}       // closed when the loop that reads has ended
	mine   map[netip.Addr]bool // see own; of the loop that reads
}

// A udpKey tells visitors apart.
type udpKey struct {
	from netip.AddrPort
	to   netip.Addr // zero if the system does not tell
}

// A udpStream is a visitor's.
type udpStream struct {
	net.Conn
	visit visit
}

// Unwrap returns the tunnel's own stream, which datagrams go through faster.
func (s *udpStream) Unwrap() net.Conn { return s.Conn }

func newUDPPort(u *UDP, key string, socket *net.UDPConn) *udpPort {
	socket.SetReadBuffer(socketBuffer)
	socket.SetWriteBuffer(socketBuffer)
	p := &udpPort{of: u, key: key, socket: socket, ended: make(chan struct{})}
	bound := socket.LocalAddr().(*net.UDPAddr).AddrPort()
	p.bound = netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port())
	p.many = udpsocket.New(socket, udpsocket.Options{Local: p.bound.Addr().IsUnspecified()})
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.flows = datagrams.NewFlows(p.ctx, datagrams.FlowOptions[udpKey]{
		Open:       p.openStream,
		Reply:      p.answer,
		Abort:      p.abort,
		Max:        u.opts.MaxVisitorsPerPort,
		Idle:       u.opts.Idle,
		Unanswered: u.opts.Unanswered,
		Ended:      p.left,
	})
	return p
}

func (p *udpPort) addr() netip.AddrPort { return p.bound }

func (p *udpPort) close() {
	p.stop()
	p.socket.Close()
	<-p.ended
	p.flows.Wait()
}

// read takes datagrams in until the socket is closed.
func (p *udpPort) read() {
	pause := backoff.Backoff{Min: time.Millisecond, Max: time.Second}
	for {
		err := p.many.Receive(p.take)
		p.flows.Flush()
		switch {
		case err == nil:
			pause.Reset()
		case errors.Is(err, net.ErrClosed):
			return
		case pause.Wait(p.ctx) != nil: // some systems tell of what nobody took; or memory is short
			return
		}
	}
}

// take takes in what has come from one visitor.
func (p *udpPort) take(r udpsocket.Run) {
	c := &p.of.counters
	n := r.Len()
	c.datagramsIn.Add(uint64(n))
	k := udpKey{netip.AddrPortFrom(r.From.Addr().Unmap(), r.From.Port()), p.bound.Addr()}
	if k.to.IsUnspecified() {
		k.to = r.To
	}
	if k.from.Port() == 0 || p.own(k) {
		c.dropped.Add(uint64(n)) // nobody is there to be answered, or it is this port itself
		return
	}
	if lost := n - p.flows.Queue(k, r); lost > 0 {
		c.dropped.Add(uint64(lost))
	}
}

// maxMine bounds how many addresses of its own a port remembers.
const maxMine = 256

// own reports whether a datagram comes from this port itself, if from another
// address of the machine: one that such a datagram was sent to before. It would
// go round for ever where an upstream answers everything.
func (p *udpPort) own(k udpKey) bool {
	if k.from.Port() != p.bound.Port() || !k.to.IsValid() {
		return false
	}
	if p.mine == nil {
		p.mine = make(map[netip.Addr]bool)
	}
	from, to := k.from.Addr().WithZone(""), k.to.WithZone("")
	if len(p.mine) < maxMine {
		p.mine[to] = true
	}
	return from == to || p.mine[from]
}

// answer sends datagrams to a visitor, from where it has sent to.
func (p *udpPort) answer(k udpKey, list [][]byte, wait bool) (int, error) {
	e := udpsocket.Envelope{To: k.from}
	if p.bound.Addr().IsUnspecified() {
		e.From = k.to
	}
	send := p.many.Send
	if !wait {
		send = p.many.TrySend
	}
	done, err := send(e, list)
	p.of.counters.datagramsOut.Add(uint64(done.Sent))
	p.of.counters.unsent.Add(uint64(done.Lost))
	return done.Done(), err
}

// openStream opens the stream of a visitor.
func (p *udpPort) openStream(ctx context.Context, k udpKey) (net.Conn, error) {
	u := p.of
	begin := time.Now()
	if u.visitors.Add(1) > int64(u.opts.MaxVisitors) {
		u.visitors.Add(-1)
		u.counters.turnedAway.Add(1)
		return nil, errFull
	}
	u.counters.accepted.Add(1)
	o := opener{u.opts.Router, u.guard.Load(), u.opts.OpenTimeout, &u.counters.streams}
	info := tunnel.StreamInfo{Protocol: "udp", Visitor: k.from}
	if k.to.IsValid() {
		info.Local = netip.AddrPortFrom(k.to.WithZone(""), p.bound.Port())
	}
	stream, info, id, err := o.open(ctx, p.key, info)
	done := visit{Finished{Remote: k.from, Host: p.key, Proto: ProtoUDP, ID: id, Service: info.Service}, begin}
	if err == nil {
		return &udpStream{stream, done}, nil
	}
	u.visitors.Add(-1)
	u.counters.fail(err)
	u.opts.Logger.Debug("visitor dropped: no stream", "remote", k.from.String(), "port", p.key, "err", err, "dur", time.Since(begin))
	u.tell(&done, err, datagrams.Carried{})
	if _, denied := errors.AsType[*policy.Denied](err); denied {
		err = fmt.Errorf("%w: %w", datagrams.ErrForget, err) // its place is for those who may enter
	}
	return nil, err
}

// abort ends the stream of a visitor that is forgotten.
func (p *udpPort) abort(stream net.Conn) {
	code, reason := tunnel.ResetTimeout, "no datagram for too long"
	if p.ctx.Err() != nil {
		code, reason = tunnel.ResetCancelled, "port closed"
	}
	tunnel.Abort(stream.(*udpStream).Conn, code, reason)
}

// left takes note of a visitor whose stream has ended.
func (p *udpPort) left(k udpKey, stream net.Conn, c datagrams.Carried) {
	u := p.of
	u.visitors.Add(-1)
	u.counters.received.Add(uint64(c.Sent))
	u.counters.sent.Add(uint64(c.Received))
	var late error // see tunnel.EarlyOpener
	if no, ok := errors.AsType[*tunnel.RefusedError](c.Err); ok {
		late = no
		u.counters.fail(no)
	}
	done := &stream.(*udpStream).visit
	u.opts.Logger.Debug("visitor left", "remote", k.from.String(), "port", p.key, "tunnel", string(done.ID), "service", done.Service,
		"dur", time.Since(done.begin), "sent", c.Sent, "received", c.Received, "err", c.Err)
	u.tell(done, late, c)
}

// tell tells of a visitor who has gone. err is why it got no stream.
func (u *UDP) tell(done *visit, err error, c datagrams.Carried) {
	if u.opts.OnVisit == nil {
		return
	}
	if c.Received == 0 && !u.untold.allow(time.Now()) {
		u.counters.untold.Add(1)
		return
	}
	u.opts.OnVisit(done.done(err, relay.Result{AtoB: c.Sent, BtoA: c.Received}))
}
