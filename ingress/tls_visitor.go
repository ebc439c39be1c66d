package ingress

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"

	"adit/internal/clienthello"
	"adit/internal/proxyheader"
	"adit/internal/relay"
	"adit/internal/undertls"
	"adit/tunnel"
)

// A tlsVisitor is a visitor up to the end of its handshake, or to its own end
// if an upstream ends its TLS.
type tlsVisitor struct {
	t        *TLS
	listener net.Listener
	conn     net.Conn
	ctx      context.Context
	cancel   context.CancelFunc // ends its wait for a stream

	place  *list.Element // in TLS.shaking; guarded by TLS.mu
	passed bool          // an upstream ends its TLS; guarded by TLS.mu

	stream visitorStream
}

// abort ends the visitor from outside, and its stream.
func (v *tlsVisitor) abort() {
	v.stream.abort(func() {
		v.cancel()
		abortSocket(v.conn)
	})
}

// serve reads the visitor's first message and sees to it that it goes to
// whoever it is for.
func (v *tlsVisitor) serve() {
	log := v.t.opts.Logger
	err := proxyheader.Meet(v.conn)
	remote := v.conn.RemoteAddr().String()
	if err != nil {
		v.t.counters.refused.Add(1)
		v.conn.Close()
		log.Debug("visitor refused", "remote", remote, "err", err)
		return
	}
	v.setDeadline()
	hello, raw, err := v.t.front.Read(v.conn)
	if err != nil {
		v.t.counters.refused.Add(1)
		v.refuse(err, raw)
		log.Debug("visitor refused: first message", "remote", remote, "err", err)
		return
	}
	name := hello.ServerName
	guest := v.guest(name)
	if guest != nil && !guest.Rest {
		v.serveGuest(guest, name, raw)
		return
	}
	known := v.t.config != nil && v.t.opts.Certificates.Has(name)
	if name != "" && v.endsAtUpstream(name, known || guest != nil) {
		v.serveRaw(name, raw)
		return
	}
	if !known && guest != nil {
		v.serveGuest(guest, name, raw)
		return
	}
	if !known {
		v.t.counters.unknown.Add(1)
		v.alert(clienthello.AlertUnrecognizedName)
		log.Debug("visitor refused: unknown server name", "remote", remote, "host", name, "ech", hello.ECH)
		return
	}
	if err := v.serveHTTP(name, raw); err != nil {
		v.t.counters.broken.Add(1)
		v.conn.Close()
		log.Debug("visitor's handshake failed", "remote", remote, "host", name, "err", err)
	}
}

// setDeadline bounds the next part of the handshake. Shutdown may have been
// called, or be called at the same time.
func (v *tlsVisitor) setDeadline() {
	v.conn.SetDeadline(time.Now().Add(v.t.opts.HandshakeTimeout))
	if v.t.draining.Load() {
		v.conn.SetDeadline(time.Now().Add(firstCall))
	}
}

// endsAtUpstream reports whether the upstream of a name ends TLS. If the name
// has a certificate here, agents may be connecting by it, who must not have to
// wait for one another.
func (v *tlsVisitor) endsAtUpstream(name string, known bool) bool {
	ctx := v.ctx
	if known {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, certainWithin)
		defer cancel()
	}
	return v.t.opts.Router.TLS(ctx, name)
}

// refuse tells the visitor what is wrong with its first message.
func (v *tlsVisitor) refuse(err error, raw []byte) {
	bad, isBad := errors.AsType[*clienthello.Error](err)
	switch {
	case isBad && bad.Alert != 0:
		v.alert(bad.Alert)
	case isBad && speaksHTTP(raw):
		clienthello.LastWords(v.conn, sayOf(probNoTLS, "", "").append(nil, 1, false, false))
	default:
		v.conn.Close()
	}
}

// speaksHTTP reports whether b may be how a request of HTTP/1.1 begins.
func speaksHTTP(b []byte) bool {
	for _, method := range []string{"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "CONNECT ", "TRACE ", "PRI "} {
		if n := min(len(b), len(method)); n > 2 && string(b[:n]) == method[:n] {
			return true
		}
	}
	return false
}

func (v *tlsVisitor) alert(code byte) { clienthello.SendAlert(v.conn, code) }

// serveHTTP does the handshake and gives the conn to HTTP.
func (v *tlsVisitor) serveHTTP(name string, raw []byte) error {
	v.setDeadline()
	conn := tls.Server(undertls.New(v.conn, raw), v.t.configFor(name))
	if err := conn.HandshakeContext(context.Background()); err != nil { // abort ends it
		return err
	}
	state := conn.ConnectionState()
	if serverNameOf(&state) != name {
		return errors.New("the server name was read in two ways")
	}
	if !v.t.doneShaking(v) {
		return net.ErrClosed
	}
	v.t.counters.ended.Add(1)
	v.conn.SetDeadline(time.Time{})
	v.t.opts.HTTP.serveTLS(v.listener, conn)
	return nil
}

// serveRaw relays the conn to an upstream that ends its TLS. raw is what was
// read of it.
func (v *tlsVisitor) serveRaw(name string, raw []byte) {
	log := v.t.opts.Logger.With("remote", v.conn.RemoteAddr().String(), "host", name)
	if !v.passOn(log) {
		return
	}
	begin := time.Now()
	o := opener{v.t.opts.Router, v.t.guard.Load(), v.t.opts.OpenTimeout, &v.t.counters.streams}
	stream, info, id, err := o.open(v.ctx, name, tunnel.StreamInfo{
		Protocol: "tls",
		Visitor:  addrPort(v.conn.RemoteAddr()),
		Local:    addrPort(v.conn.LocalAddr()),
		Host:     name,
	})
	done := visit{Finished{Remote: info.Visitor, Host: name, Proto: ProtoTLS, ID: id, Service: info.Service}, begin}
	if err == nil {
		err = v.stream.attach(stream)
	}
	if err == nil {
		_, err = stream.Write(raw)
		if err != nil {
			tunnel.Abort(stream, tunnel.ResetCancelled, "")
		}
	}
	if err != nil {
		v.t.counters.fail(err)
		v.noStream(err)
		log.Debug("visitor refused: no stream", "err", err, "dur", time.Since(begin))
		v.t.tell(&done, err, relay.Result{})
		return
	}
	done.Received = int64(len(raw))
	res, late, err := v.t.counters.relay(v.conn, stream, v.t.opts.Idle)
	v.t.counters.received.Add(uint64(len(raw)))
	log.Debug("visitor left", "tunnel", string(id), "service", info.Service, "dur", time.Since(begin),
		"sent", res.AtoB+int64(len(raw)), "received", res.BtoA, "err", err)
	v.t.tell(&done, late, res)
}

// passOn reports whether there is room for a visitor whose TLS ends elsewhere,
// and turns it away if not.
func (v *tlsVisitor) passOn(log *slog.Logger) bool {
	if !v.t.pass(v) {
		v.t.counters.turnedAway.Add(1)
		abortSocket(v.conn)
		log.Debug("visitor turned away")
		return false
	}
	v.t.counters.passedOn.Add(1)
	v.conn.SetDeadline(time.Time{})
	return true
}

// tell tells of a visitor who has gone. err is why it got no stream.
func (t *TLS) tell(done *visit, err error, res relay.Result) {
	if t.opts.OnVisit != nil {
		t.opts.OnVisit(done.done(err, res))
	}
}

// noStream tells the visitor, as far as TLS can say it, why nobody answers.
func (v *tlsVisitor) noStream(err error) {
	switch explain(err) {
	case probUnknownName, probMisdirected:
		v.alert(clienthello.AlertUnrecognizedName)
	case probAddress, probRate, probBlocked:
		v.alert(clienthello.AlertAccessDenied)
	default:
		v.alert(clienthello.AlertInternalError)
	}
}
