package forward

import (
	"context"
	"net"
	"net/netip"

	"adit/internal/datagrams"
	"adit/tunnel"
)

// A flowKey is a sender and where it sends to.
type flowKey struct {
	from   netip.AddrPort
	target tunnel.Target
}

// maxFlows is how many senders, or targets of one sender, a socket has at a
// time.
const maxFlows = 200

// newFlows returns the streams of one socket, which end with ctx.
func (l *Local) newFlows(ctx context.Context) *datagrams.Flows[flowKey] {
	return datagrams.NewFlows(ctx, datagrams.FlowOptions[flowKey]{
		Open:  l.openFlow,
		Abort: func(stream net.Conn) { reset(stream) },
		Max:   maxFlows,
		Idle:  l.opts.IdleUDP,
		Ended: func(k flowKey, _ net.Conn, c datagrams.Carried) {
			l.log.Debug("forward ended", "target", k.target.String(), "remote", k.from.String(), "sent", c.Sent, "received", c.Received)
		},
	})
}

func (l *Local) openFlow(ctx context.Context, k flowKey) (net.Conn, error) {
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	stream, err := l.opts.Open(opening, k.target)
	if err != nil && ctx.Err() == nil {
		l.log.Warn("forward failed", "target", k.target.String(), "remote", k.from.String(), "err", err)
	}
	return stream, err
}

// runUDP serves a socket whose datagrams all go to one target.
func (l *Local) runUDP(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	f := l.newFlows(ctx)
	defer f.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.pc.Close() })
	defer stop()
	defer l.pc.Close()
	buf := make([]byte, datagrams.MaxLen)
	for {
		n, from, err := l.pc.ReadFrom(buf)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case isPassing(err):
			continue
		default:
			return err
		}
		k := flowKey{from.(*net.UDPAddr).AddrPort(), l.spec.Target}
		f.Send(k, buf[:n], func(b []byte) error {
			_, err := l.pc.WriteTo(b, from)
			return err
		})
	}
}
