package agent

import (
	"context"
	"errors"
	"net"
	"syscall"

	"adit/dialect/native"
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
	up, seen := t.Upstream, l.observe(in, t)
	switch {
	case up.ln != nil:
		up.ln.deliver(seen.observed(in))
		return
	case up.handler != nil:
		l.handlers.deliver(up, seen.observed(in))
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
	seen.opened(true)
	res, err := relay.Relay(in, conn, seen.relayOptions())
	seen.ended(res.AtoB, res.BtoA, err)
	l.log.Debug("stream ended", "service", up.String(), "sent", res.BtoA, "received", res.AtoB, "err", err)
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
