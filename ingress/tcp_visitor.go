package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"adit/internal/backoff"
	"adit/internal/proxyheader"
	"adit/internal/relay"
	"adit/policy"
	"adit/tunnel"
)

// openAttempts is how many tunnels a visitor is offered to: one may end, or
// begin to drain, between Route and the opening of the stream.
const openAttempts = 3

// A tcpVisitor is a visitor of a public port.
type tcpVisitor struct {
	conn   net.Conn
	port   *tcpPort
	cancel context.CancelFunc // ends its wait for a stream

	stream visitorStream
}

// abort ends the visitor from outside, and its stream.
func (v *tcpVisitor) abort() {
	v.stream.abort(func() {
		v.cancel()
		tunnel.Abort(v.conn, tunnel.ResetCancelled, "")
	})
}

// accept lets visitors in until the listener is closed. ctx ends with it.
func (t *TCP) accept(ctx context.Context, p *tcpPort) {
	pause := backoff.Backoff{Min: 5 * time.Millisecond, Max: time.Second}
	for {
		conn, err := p.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) { // nobody waits any more
			p.ln.Close()
			return
		}
		if err != nil { // such as EMFILE: there is nothing to do but wait
			t.opts.Logger.Warn("accept failed", "addr", p.ln.Addr().String(), "err", err)
			if pause.Wait(ctx) != nil {
				return
			}
			continue
		}
		pause.Reset()
		t.admit(p, conn)
	}
}

// admit serves a visitor in a goroutine of its own, if there is room.
func (t *TCP) admit(p *tcpPort, conn net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	v := &tcpVisitor{conn: conn, port: p, cancel: cancel}
	t.mu.Lock()
	full := len(t.visitors) >= t.opts.MaxVisitors || p.visitors >= t.opts.MaxVisitorsPerPort
	refused := full || t.over
	if !refused {
		t.visitors[v] = struct{}{}
		p.visitors++
	}
	t.mu.Unlock()
	if refused {
		t.counters.turnedAway.Add(1)
		v.abort()
		t.opts.Logger.Debug("visitor turned away", "remote", conn.RemoteAddr().String(), "port", p.key, "full", full)
		return
	}
	t.counters.accepted.Add(1)
	t.running.Go(func() {
		defer t.leave(v)
		t.serve(ctx, v)
	})
}

func (t *TCP) leave(v *tcpVisitor) {
	v.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.visitors, v)
	v.port.visitors--
}

// serve relays the visitor's conn to a stream, until it is over.
func (t *TCP) serve(ctx context.Context, v *tcpVisitor) {
	if err := proxyheader.Meet(v.conn); err != nil {
		t.opts.Logger.Debug("visitor refused", "remote", v.conn.RemoteAddr().String(), "port", v.port.key, "err", err)
		tunnel.Abort(v.conn, tunnel.ResetCancelled, "")
		return
	}
	log := t.opts.Logger.With("remote", v.conn.RemoteAddr().String(), "port", v.port.key)
	begin := time.Now()
	stream, info, id, err := t.openStream(ctx, v)
	done := visit{Finished{Remote: info.Visitor, Host: v.port.key, Proto: ProtoTCP, ID: id, Service: info.Service}, begin}
	if err == nil {
		err = v.stream.attach(stream)
	}
	if err != nil {
		t.counters.fail(err)
		tunnel.Abort(v.conn, tunnel.ResetCancelled, "")
		log.Debug("visitor reset: no stream", "err", err, "dur", time.Since(begin))
		t.tell(&done, err, relay.Result{})
		return
	}
	res, late, err := t.counters.relay(v.conn, stream, t.opts.Idle)
	log.Debug("visitor left", "tunnel", string(id), "service", info.Service,
		"dur", time.Since(begin), "sent", res.AtoB, "received", res.BtoA, "err", err)
	t.tell(&done, late, res)
}

// tell tells of a visitor who has gone. err is why it got no stream.
func (t *TCP) tell(done *visit, err error, res relay.Result) {
	if t.opts.OnVisit != nil {
		t.opts.OnVisit(done.done(err, res))
	}
}

// resetCode is what the agent is told of a stream that is aborted for cause.
func resetCode(cause error) tunnel.ResetCode {
	if errors.Is(cause, relay.ErrIdle) {
		return tunnel.ResetTimeout
	}
	return tunnel.ResetCancelled
}

// openStream finds a tunnel for the visitor and opens a stream on it.
func (t *TCP) openStream(ctx context.Context, v *tcpVisitor) (net.Conn, tunnel.StreamInfo, tunnel.ID, error) {
	o := opener{t.opts.Router, t.guard.Load(), t.opts.OpenTimeout, &t.counters.streams}
	return o.open(ctx, v.port.key, tunnel.StreamInfo{
		Protocol: "tcp",
		Visitor:  addrPort(v.conn.RemoteAddr()),
		Local:    addrPort(v.conn.LocalAddr()),
	})
}

// An opener opens streams for visitors whose bytes are not looked at.
type opener struct {
	router   Router
	guard    *policy.Guard // of all visitors; nil lets everybody in
	timeout  time.Duration
	counters *streamCounters
}

// open finds a tunnel for what a visitor asked for and opens a stream on it. It
// returns info with the service that the stream is for.
func (o opener) open(ctx context.Context, key string, info tunnel.StreamInfo) (stream net.Conn, _ tunnel.StreamInfo, id tunnel.ID, err error) {
	if err := admitConn(o.guard, info.Visitor); err != nil {
		return nil, info, "", err
	}
	var passed *policy.Guard
	var tried []tunnel.Tunnel // and failed for good
	for try := 1; ; try++ {
		to, rerr := find(ctx, o.router, key, Ask{info.Visitor.Addr(), tried})
		if rerr != nil {
			return nil, info, "", rerr
		}
		if slices.Contains(tried, to.Tunnel) {
			return nil, info, id, err // that of the last try: there is nobody else
		}
		info.Service = to.Service
		id = to.id()
		if to.TLS != (info.Protocol == "tls") {
			return nil, info, id, errMisdirected
		}
		if to.Policy != passed {
			if err := admitConn(to.Policy, info.Visitor); err != nil {
				return nil, info, id, err
			}
			passed = to.Policy
		}
		stream, err = o.openOn(ctx, to, info)
		if err == nil {
			return stream, info, id, nil
		}
		err = fmt.Errorf("open stream to %q: %w", id, err)
		refused, _ := errors.AsType[*tunnel.RefusedError](err)
		draining := refused != nil && refused.Code == tunnel.RefuseDraining
		switch {
		case try >= to.tries(openAttempts):
			return nil, info, id, err
		case draining, errors.Is(err, tunnel.ErrClosed):
		case to.Alive != nil && (refused != nil || to.givenUp()):
			o.counters.refusal(err)
			tried = append(tried, to.Tunnel)
		default:
			return nil, info, id, err
		}
	}
}

// openOn opens a stream. With others beside the target it waits for the agent's
// answer: nothing of the visitor's has been sent then, and a failure can be made
// good.
func (o opener) openOn(ctx context.Context, to Target, info tunnel.StreamInfo) (net.Conn, error) {
	o.counters.opened.Add(1)
	if eo, ok := to.Tunnel.(tunnel.EarlyOpener); ok && to.Alive == nil {
		return eo.OpenEarly(info)
	}
	ctx, cancel := to.whileAlive(ctx, o.timeout)
	defer cancel()
	return to.Tunnel.OpenStream(ctx, info)
}

// admitConn asks a policy, if there is one, whether a connection may be relayed.
func admitConn(g *policy.Guard, visitor netip.AddrPort) error {
	if g == nil {
		return nil
	}
	return g.AdmitConn(visitor.Addr())
}
