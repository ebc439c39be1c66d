package ingress

import (
	"net"

	"adit/internal/http1"
	"adit/internal/relay"
	"adit/tunnel"
)

// upgrade passes on a 101 response and then relays both ways until both have
// ended. early is what the upstream sent behind the response.
func (v *visitor) upgrade(s *stream, early []byte) end {
	ex := v.ex
	v.stopWatch()
	v.use(nil)
	if v.gone.Load() {
		s.reset(tunnel.ResetCancelled, "the visitor left")
		return v.fail(errVisitorLeft)
	}
	out := v.appendResponseHead(ex.out[:0])
	out = append(out, "Connection: Upgrade\r\nUpgrade: "...)
	out = append(out, upgradeOf(ex)...)
	out = append(out, "\r\n\r\n"...)
	out = append(out, early...)
	ex.out = out
	ex.status, ex.started = ex.resp.Status, true
	_, err := v.conn.Write(out)
	if err == nil && len(ex.unread()) > 0 {
		_, err = s.conn.Write(ex.unread())
	}
	f := v.finished()
	f.Sent, f.Received = int64(len(early)), int64(len(ex.unread()))
	start, span := ex.start, ex.span
	v.h.counters.upgraded.Add(1)
	defer v.h.counters.upgraded.Add(-1)
	v.releaseExchange() // nothing is held while the conn is idle
	if err != nil {
		s.reset(tunnel.ResetCancelled, "the visitor left")
	} else {
		v.use(s)
		var res relay.Result
		res, err = relay.Relay(v.conn, s.conn, relay.Options{Abort: func(c net.Conn, _ error) {
			if c == s.conn {
				s.reset(tunnel.ResetCancelled, "the other side failed")
			} else {
				abortSocket(c)
			}
		}})
		v.use(nil)
		f.Received += res.AtoB
		f.Sent += res.BtoA
	}
	if err != nil {
		v.h.opts.Logger.Debug("upgraded conn ended", "service", f.Service, "sent", f.Sent, "received", f.Received, "err", err)
	}
	v.h.counters.done(f.Status, f.Code, f.Received, f.Sent, -1)
	f.Duration = v.h.now() - start
	v.h.tell(span, f)
	return closeConn
}

// upgradeOf returns what the upstream upgrades to.
func upgradeOf(ex *exchange) []byte {
	for _, f := range ex.resp.Fields {
		if f.Kind == http1.Upgrade && len(f.Value) > 0 {
			return f.Value
		}
	}
	return ex.req.Upgrade
}

// abortSocket ends c so that the far side does not take what it got for all.
// The close of a TLS conn would be such an end: it says so before it closes.
func abortSocket(c net.Conn) {
	for inner := c; ; {
		if l, ok := inner.(interface{ SetLinger(sec int) error }); ok {
			l.SetLinger(0) // RST
			inner.Close()
			break
		}
		w, ok := inner.(interface{ NetConn() net.Conn })
		if !ok {
			inner.Close()
			break
		}
		inner = w.NetConn()
	}
	c.Close()
}
