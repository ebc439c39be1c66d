package agent

import (
	"context"
	"errors"
	"net"
	"syscall"

	"adit/dialect/native"
	"adit/forward"
	"adit/internal/datagrams"
	"adit/internal/relay"
	"adit/tunnel"
)

// accept serves the session's streams until it ends.
func (l *lane) accept(s *native.Session) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // nobody waits for the dials any more
	for {
		c, err := s.Accept()
		if err != nil {
			return
		}
		l.streams.Go(func() { l.serve(ctx, c.(tunnel.Incoming)) })
	}
}

// serve relays one stream to its upstream. ctx bounds the dial.
func (l *lane) serve(ctx context.Context, in tunnel.Incoming) {
	t, ok := l.tunnels.find(in.Info().Service)
	if !ok {
		in.Refuse(tunnel.RefuseUnknownService, "this agent has no such service")
		return
	}
	if t.Upstream.UDP() != (in.Info().Protocol == "udp") {
		reason := "this service takes connections, and no datagrams"
		if t.Upstream.UDP() {
			reason = "this service takes datagrams, and no connections: it is reached with /udp"
		}
		in.Refuse(tunnel.RefuseUnknownService, reason)
		return
	}
	up, seen := t.Upstream, l.observe(in, t)
	switch {
	case up.ln != nil:
		up.ln.deliver(seen.observed(in))
		return
	case up.handler != nil:
		l.handlers.deliver(up, seen.observed(in))
		return
	case up.exit != nil:
		l.serveExit(ctx, in, up.exit, seen)
		return
	}
	conn, err := up.dial(ctx, in.Info())
	if err != nil {
		code, reason := dialFailure(err)
		l.log.Warn("upstream not reached", "service", up.String(), "err", err)
		in.Refuse(code, reason)
		seen.refused(err)
		return
	}
	if in.Accept() != nil {
		in.Close()
		conn.Close()
		return
	}
	if up.UDP() {
		seen.opened(false) // what takes datagrams does not say so
		received, sent, err := datagrams.Relay(in, conn, datagrams.IdleTimeout, abortIdle)
		seen.ended(received, sent, nil) // datagrams have no end that could be broken
		l.log.Debug("stream ended", "service", up.String(), "sent", sent, "received", received, "err", err)
		return
	}
	seen.opened(true)
	res, err := relay.Relay(in, conn, seen.relayOptions())
	seen.ended(res.AtoB, res.BtoA, err)
	l.log.Debug("stream ended", "service", up.String(), "sent", res.BtoA, "received", res.AtoB, "err", err)
}

// serveExit lets one stream say where it goes. ctx bounds the dial.
func (l *lane) serveExit(ctx context.Context, in tunnel.Incoming, exit *forward.Exit, seen *observation) {
	if !exit.Enter() {
		err := errors.New("this agent has as many connections to socks as it takes")
		in.Refuse(tunnel.RefuseBusy, err.Error())
		seen.refused(err)
		return
	}
	defer exit.Leave()
	if in.Accept() != nil {
		in.Close()
		return
	}
	seen.opened(false)
	log := l.log.With("service", "socks")
	if v := in.Info().Visitor; v.IsValid() {
		log = log.With("remote", v.String())
	}
	received, sent, err := exit.Serve(ctx, in, log)
	seen.ended(received, sent, err)
}

// abortIdle ends a stream of datagrams that has carried none for too long.
func abortIdle(stream net.Conn) {
	tunnel.Abort(stream, tunnel.ResetTimeout, "no datagram for too long")
}

// dialFailure turns the error of a dial into what the visitor's side may know:
// the kind of failure, and no addresses.
func dialFailure(err error) (tunnel.RefuseCode, string) {
	var ne net.Error
	switch {
	case errors.As(err, &ne) && ne.Timeout():
		return tunnel.RefuseUpstreamTimeout, "the upstream did not answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return tunnel.RefuseUpstreamRefused, "the upstream refused the connection"
	}
	return tunnel.RefuseUpstreamRefused, "the upstream is not reachable"
}

// abort ends c with an error that its far side sees.
func abort(c net.Conn, cause error) {
	switch c := c.(type) {
	case tunnel.Resetter:
		code := tunnel.ResetUpstream
		var re *tunnel.ResetError
		if errors.As(cause, &re) {
			code = re.Code
		}
		c.Reset(code, "")
	case *net.TCPConn:
		c.SetLinger(0)
		c.Close()
	default:
		c.Close()
	}
}
