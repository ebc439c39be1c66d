package ingress

import (
	"context"
	"net"
	"net/netip"
	"time"

	"adit/internal/relay"
	"adit/internal/replay"
	"adit/tunnel"
)

// Guests get visitors at the port of a TLS ingress beside its Router, such as a
// dialect whose operator says which names go where. They are safe for
// concurrent use.
type Guests interface {
	// Guest returns who gets the visitors who ask for name at local, or nil. name
	// is in lower case, and empty for those who name nobody.
	Guest(ctx context.Context, name string, local netip.AddrPort) *Guest
}

// A Guest gets visitors. It has one of its two functions.
type Guest struct {
	// Rest says that it gets only those whom the ingress would refuse
	// otherwise: the router does not know the name, and there is no
	// certificate.
	Rest bool

	// Handshake ends the visitor's TLS, within conn's deadline, and takes conn
	// over if it returns nil.
	Handshake func(ctx context.Context, conn net.Conn) error

	// Visit serves a visitor until it has gone, or ctx ends, and closes conn.
	// raw is what has been read of it. An error says why it was not served; it
	// is of the kinds that a tunnel's OpenStream returns, and conn is then left
	// open.
	Visit func(ctx context.Context, conn net.Conn, raw []byte) (Visited, error)
}

// Visited is what a Guest tells of a visitor who has gone.
type Visited struct {
	ID       tunnel.ID
	Service  string
	Sent     int64 // bytes to the upstream
	Received int64
}

// guest returns who gets the visitor, or nil.
func (v *tlsVisitor) guest(name string) *Guest {
	if v.t.opts.Guests == nil {
		return nil
	}
	return v.t.opts.Guests.Guest(v.ctx, name, addrPort(v.conn.LocalAddr()))
}

// serveGuest gives the visitor to g. raw is what was read of it.
func (v *tlsVisitor) serveGuest(g *Guest, name string, raw []byte) {
	log := v.t.opts.Logger.With("remote", v.conn.RemoteAddr().String(), "host", name)
	if g.Handshake != nil {
		v.setDeadline()
		if err := g.Handshake(v.ctx, replay.New(v.conn, raw)); err != nil {
			v.t.counters.broken.Add(1)
			v.conn.Close()
			log.Debug("handshake failed", "err", err)
			return
		}
		v.t.counters.ended.Add(1)
		return
	}
	if !v.passOn(log) {
		return
	}
	begin := time.Now()
	from := addrPort(v.conn.RemoteAddr())
	var met Visited
	err := admitConn(v.t.guard.Load(), from)
	if err == nil {
		v.t.counters.streams.opened.Add(1)
		met, err = g.Visit(v.ctx, v.conn, raw)
	}
	if err != nil {
		v.t.counters.fail(err)
		v.noStream(err)
	}
	v.t.counters.received.Add(uint64(met.Sent))
	v.t.counters.sent.Add(uint64(met.Received))
	log.Debug("visitor left", "tunnel", string(met.ID), "service", met.Service, "dur", time.Since(begin), "sent", met.Sent, "received", met.Received, "err", err)
	done := visit{Finished{Remote: from, Host: name, Proto: ProtoTLS, ID: met.ID, Service: met.Service}, begin}
	v.t.tell(&done, err, relay.Result{AtoB: met.Sent, BtoA: met.Received})
}
