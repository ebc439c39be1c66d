package forward

import (
	"context"
	"net"
	"net/netip"

	"adit/internal/datagrams"
	"adit/internal/udpsocket"
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

// newFlows returns the streams of one socket, which end with ctx. What comes back
// leaves behind what prefix says for its target.
func (l *Local) newFlows(ctx context.Context, socket *udpsocket.Socket, prefix func(tunnel.Target) []byte) *datagrams.Flows[flowKey] {
	return datagrams.NewFlows(ctx, datagrams.FlowOptions[flowKey]{
		Open: l.openFlow,
		Reply: func(k flowKey, list [][]byte, wait bool) (int, error) {
			send := socket.Send
			if !wait {
				send = socket.TrySend
			}
			done, err := send(udpsocket.Envelope{To: k.from, Prefix: prefix(k.target)}, list)
			return done.Done(), err
		},
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
	socket := udpsocket.New(l.pc, udpsocket.Options{})
	f := l.newFlows(ctx, socket, func(tunnel.Target) []byte { return nil })
	defer f.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.pc.Close() })
	defer stop()
	defer l.pc.Close()
	take := func(r udpsocket.Run) { f.Queue(flowKey{r.From, l.spec.Target}, r) }
	for {
		err := socket.Receive(take)
		f.Flush()
		switch {
		case err == nil, isPassing(err):
		case ctx.Err() != nil:
			return nil
		default:
			return err
		}
	}
}
