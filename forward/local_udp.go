package forward

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"adit/tunnel"
)

const (
	maxFlows  = 200 // senders, or targets of one sender, at a time
	flowQueue = 64  // datagrams that wait for a flow's stream to be opened
)

// flows are the streams of one UDP socket: one for each sender and target. A
// datagram that finds no room is lost, as datagrams are.
type flows struct {
	local *Local
	ctx   context.Context // bounds the opening of streams; ends with the socket

	wg sync.WaitGroup
	mu sync.Mutex // guards the field below
	by map[flowKey]chan []byte
}

// A flowKey is a sender and where it sends to.
type flowKey struct {
	from   netip.AddrPort
	target tunnel.Target
}

func newFlows(ctx context.Context, l *Local) *flows {
	return &flows{local: l, ctx: ctx, by: make(map[flowKey]chan []byte)}
}

// send sends a datagram, which is copied, and answers through reply.
func (f *flows) send(k flowKey, b []byte, reply func(b []byte) error) {
	packet := make([]byte, lengthLen+len(b))
	copy(packet[lengthLen:], b)
	f.mu.Lock()
	defer f.mu.Unlock()
	q := f.by[k]
	if q == nil {
		if len(f.by) >= maxFlows || f.ctx.Err() != nil {
			return
		}
		q = make(chan []byte, flowQueue)
		f.by[k] = q
		f.wg.Go(func() {
			f.run(k, q, reply)
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.by, k)
		})
	}
	select {
	case q <- packet:
	default:
	}
}

// run carries one flow until it is idle, or its stream or the socket ends.
func (f *flows) run(k flowKey, q <-chan []byte, reply func(b []byte) error) {
	l := f.local
	ctx, cancel := context.WithTimeout(f.ctx, openTimeout)
	stream, err := l.opts.Open(ctx, k.target)
	cancel()
	if err != nil {
		if f.ctx.Err() == nil {
			l.log.Warn("forward failed", "target", k.target.String(), "remote", k.from.String(), "err", err)
		}
		return
	}
	idle := time.NewTimer(l.opts.IdleUDP)
	defer idle.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stream.Close()
	back := make(chan struct{}, 1) // something came
	ended := make(chan struct{})
	wg.Go(func() {
		defer close(ended)
		buf := make([]byte, maxDatagram)
		for {
			b, err := readDatagram(stream, buf)
			if err != nil {
				return
			}
			select {
			case back <- struct{}{}:
			default:
			}
			reply(b) // what cannot be sent is lost
		}
	})
	stop := context.AfterFunc(f.ctx, func() { tunnel.Abort(stream, tunnel.ResetCancelled, "") })
	defer stop()
	for {
		select {
		case b := <-q:
			if writeDatagram(stream, b) != nil {
				return
			}
		case <-back:
		case <-ended:
			return
		case <-idle.C:
			return
		}
		idle.Reset(l.opts.IdleUDP)
	}
}

// runUDP serves a socket whose datagrams all go to one target.
func (l *Local) runUDP(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	f := newFlows(ctx, l)
	defer f.wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.pc.Close() })
	defer stop()
	defer l.pc.Close()
	buf := make([]byte, maxDatagram)
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
		f.send(k, buf[:n], func(b []byte) error {
			_, err := l.pc.WriteTo(b, from)
			return err
		})
	}
}
