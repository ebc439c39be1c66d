package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/forward"
	"adit/internal/datagrams"
	"adit/internal/relay"
	"adit/tunnel"
)

const (
	maxForwardsUDP = 256 // those of one session that carry datagrams
	maxDials       = 256 // targets that are dialled for one session at a time
)

// forward serves the streams that the agent opens until the tunnel ends. b.end
// waits for it.
func (b *binder) forward(f dialect.Forwarder) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // nobody waits for the dials any more
	dials := make(chan struct{}, maxDials)
	udp := new(atomic.Int32)
	for {
		in, err := f.AcceptForward()
		if err != nil {
			return
		}
		b.forwards.Go(func() { b.connectForward(ctx, in, dials, udp) })
	}
}

// connectForward serves one stream when it is its turn to be dialled, unless the
// agent has given it up by then. ctx bounds the dial.
func (b *binder) connectForward(ctx context.Context, in tunnel.Asked, dials chan struct{}, udp *atomic.Int32) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { cancel(in.WaitGivenUp(ctx)) })
	dialled := sync.OnceFunc(func() {
		cancel(nil)
		watch.Wait()
		<-dials
	})
	select {
	case dials <- struct{}{}:
		b.serveForward(ctx, in, dialled, udp)
	case <-ctx.Done():
		watch.Wait()
		in.Close()
	}
}

// serveForward connects one stream to its target. ctx bounds the dial, at whose
// end dialled is called.
func (b *binder) serveForward(ctx context.Context, in tunnel.Asked, dialled func(), udp *atomic.Int32) {
	defer dialled()
	target, log := in.Target(), b.server.log.With("session", b.session, "tunnel", string(b.tunnel.ID()), "remote", b.remote, "subject", b.holder)
	refuse := func(err error) {
		re, ok := errors.AsType[*tunnel.RefusedError](err)
		if !ok {
			re = &tunnel.RefusedError{Code: tunnel.RefuseInternal, Reason: "the server failed"}
		}
		log.Warn("forward refused", "target", target.String(), "err", err)
		b.server.forwards.done.refuse(re.Code)
		in.Refuse(re.Code, re.Reason)
	}
	if err := b.server.forwards.enter(b); err != nil {
		refuse(err)
		return
	}
	defer b.server.forwards.leave(b)
	if target.Datagrams() {
		defer udp.Add(-1)
		if udp.Add(1) > maxForwardsUDP {
			refuse(busy("the session has as many streams of datagrams as it may have"))
			return
		}
	}
	out, by, err := b.dialForward(ctx, target)
	if ctx.Err() != nil {
		log.Debug("forward given up", "target", target.String(), "err", context.Cause(ctx))
		if err == nil {
			out.Close()
		}
		in.Close()
		return
	}
	if err != nil {
		refuse(err)
		return
	}
	of := &openForward{target: target, in: in, out: out}
	if !b.hold(of, by) {
		out.Close()
		refuse(&tunnel.RefusedError{Code: tunnel.RefuseForbidden, Reason: "no rule allows this target any more"})
		return
	}
	defer b.let(of)
	if in.Accept() != nil {
		in.Close()
		out.Close()
		return
	}
	dialled()
	began := time.Now()
	counts := &b.server.forwards.done
	counts.connect(target.Network)
	log.Debug("forward opened", "target", target.String())
	var sent, received int64
	if target.Network == tunnel.UDP {
		sent, received, err = datagrams.Relay(in, out, datagrams.IdleTimeout, abortIdle)
	} else {
		var res relay.Result
		res, err = relay.Relay(in, out, relay.Options{Abort: abortForward})
		sent, received = res.AtoB, res.BtoA
	}
	counts.move(sent, received)
	log.Debug("forward ended", "target", target.String(), "sent", sent, "received", received, "dur", time.Since(began).Round(time.Millisecond), "err", err)
}

// A permit is what has allowed a target: the server's own rules, and a credential.
type permit struct {
	rules *[]auth.ForwardRule
	id    *auth.Identity
}

// permitLocked returns what decides now. b.mu is held.
func (b *binder) permitLocked() permit {
	return permit{b.server.forwards.rules.Load(), b.identity}
}

// all returns the rules of both, which all have to allow a target.
func (p permit) all() forward.Rules {
	rules := forward.Rules{{Forward: *p.rules}}
	if p.id.Kind != auth.KindSecret {
		rules = append(rules, p.id.Scope)
	}
	return rules
}

// dialForward connects to a target as far as the server and the agent's
// credential, as they are now and as they are returned, allow it.
func (b *binder) dialForward(ctx context.Context, t tunnel.Target) (net.Conn, permit, error) {
	b.mu.Lock()
	by := b.permitLocked()
	b.mu.Unlock()
	if !t.OfAgent() {
		c, err := b.server.forwards.dialer.Dial(ctx, t, by.all())
		return c, by, err
	}
	c, err := b.dialService(ctx, t, by.all())
	return c, by, err
}

// dialService connects to a service of another agent.
func (b *binder) dialService(ctx context.Context, t tunnel.Target, rules forward.Rules) (net.Conn, error) {
	if !rules.AllowsService(t.Host, t.Service) {
		return nil, &tunnel.RefusedError{Code: tunnel.RefuseForbidden, Reason: "no rule allows this service"}
	}
	ctx, cancel := context.WithTimeout(ctx, forward.DialTimeout)
	defer cancel()
	protocol := "tcp"
	if t.Datagrams() {
		protocol, t.Network = "udp", tunnel.Agent // by which services are routed
	}
	e, err := b.server.table.Route(ctx, t.String())
	if err != nil {
		return nil, serviceFailure(err)
	}
	visitor, _ := netip.ParseAddrPort(b.remote)
	c, err := e.Tunnel.OpenStream(ctx, tunnel.StreamInfo{Service: e.Service, Protocol: protocol, Visitor: visitor})
	if err != nil {
		return nil, serviceFailure(err)
	}
	return c, nil
}

// serviceFailure says why another agent's service is not reached.
func serviceFailure(err error) error {
	refused := func(code tunnel.RefuseCode, reason string) error {
		return &tunnel.RefusedError{Code: code, Reason: reason}
	}
	switch {
	case errors.Is(err, tunnel.ErrRefused):
		return err
	case errors.Is(err, tunnel.ErrNoRoute):
		return refused(tunnel.RefuseUnknownService, "no agent offers this service")
	case errors.Is(err, tunnel.ErrBlocked):
		return refused(tunnel.RefuseForbidden, "the operator of the server has blocked this ID")
	case errors.Is(err, tunnel.ErrQueueFull):
		return refused(tunnel.RefuseBusy, "too many wait for this service already")
	case errors.Is(err, tunnel.ErrOffline), errors.Is(err, tunnel.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		return refused(tunnel.RefuseUnreachable, "the agent of this service is not connected")
	}
	return refused(tunnel.RefuseInternal, "the service was not reached")
}

// abortIdle ends a stream of datagrams that has carried none for too long.
func abortIdle(stream net.Conn) {
	tunnel.Abort(stream, tunnel.ResetTimeout, "no datagram for too long")
}

// abortForward ends one side of a forward so that its far side sees it.
func abortForward(c net.Conn, cause error) {
	code := tunnel.ResetUpstream
	if re, ok := errors.AsType[*tunnel.ResetError](cause); ok {
		code = re.Code
	}
	tunnel.Abort(c, code, "")
}
