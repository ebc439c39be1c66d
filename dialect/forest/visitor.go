package forest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"adit/internal/clienthello"
	"adit/internal/relay"
	"adit/tunnel"
)

const (
	// helloTime is how long a visitor of a port with host names may take to say
	// a name before it gets what takes everybody, and noHelloTime where there is
	// no such entry.
	helloTime   = 5 * time.Second
	noHelloTime = 10 * time.Second

	// comeback is how long a visitor waits for an agent that is not there: one
	// that restarts takes less.
	comeback = 2 * time.Second

	// lookEvery is how often a visitor who waits for one agent looks for others.
	lookEvery = 250 * time.Millisecond
)

var errInDoubt = errors.New("forest: the agent gives no sign of life, and there is another")

// visit serves one visitor.
func (s *Server) visit(ctx context.Context, l *listener, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	entries := *l.entries.Load()
	host, early, alert := s.hello(conn, entries)
	e := choose(entries, host)
	if e == nil {
		if alert != 0 {
			clienthello.SendAlert(conn, alert)
		}
		s.debugf("%s came to %s for the name %q, which no tunnel has", conn.RemoteAddr(), conn.LocalAddr(), host)
		return
	}
	st, old, err := s.open(ctx, e, host, conn)
	if err != nil {
		s.debugf("%s came to %s and is not served: %s: %v", conn.RemoteAddr(), conn.LocalAddr(), e.ClientIdentifier, err)
		return
	}
	s.carry(ctx, e, conn, early, st, old)
}

// carry relays a visitor, of whom early has been read, and a stream for it until
// both have ended, or ctx does, and closes both.
func (s *Server) carry(ctx context.Context, e *Entry, conn net.Conn, early []byte, st net.Conn, old bool) (res relay.Result) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { st.Close(); conn.Close() })
	defer stop()
	if e.HaProxyProxyProtocol {
		if _, err := st.Write(proxyLine(conn)); err != nil {
			st.Close()
			return res
		}
	}
	if len(early) > 0 {
		n, err := st.Write(early)
		if err != nil {
			st.Close()
			return res
		}
		defer func() { res.AtoB += int64(n) }()
	}
	visitor := conn
	if old {
		visitor = whole{conn} // an original ends both directions at once
	}
	res, _ = relay.Relay(visitor, st, relay.Options{Abort: func(c net.Conn, _ error) {
		if w, ok := c.(whole); ok {
			c = w.Conn
		}
		tunnel.Abort(c, tunnel.ResetUpstream, "")
	}})
	return res
}

// hello reads the name that a visitor asks for by TLS, if the entries differ by
// it: otherwise nothing is read, so that upstreams may speak first. alert is
// for a visitor whom no entry takes; 0 means that it does not speak TLS.
func (s *Server) hello(conn net.Conn, entries []Entry) (host string, early []byte, alert byte) {
	needed, patience := false, noHelloTime
	for _, e := range entries {
		if e.anyName() {
			patience = helloTime
		} else {
			needed = true
		}
	}
	if !needed {
		return "", nil, 0
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	defer conn.SetReadDeadline(time.Time{})
	hello, early, err := s.front.Read(conn)
	if e, ok := errors.AsType[*clienthello.Error](err); ok {
		return "", early, e.Alert
	}
	if err != nil {
		return "", early, 0
	}
	return hello.ServerName, early, clienthello.AlertUnrecognizedName
}

// open opens a stream for a visitor, with a session that there is or comes
// soon. Nothing of the visitor has been sent before there is a stream, so who
// refuses it, or gives no sign of life, is passed over for another. old says
// that the agent is an original.
func (s *Server) open(ctx context.Context, e *Entry, host string, conn net.Conn) (st net.Conn, old bool, err error) {
	patience := time.NewTimer(comeback)
	defer patience.Stop()
	info := tunnel.StreamInfo{Service: e.service(), Protocol: "tcp", Host: host, Visitor: addrPort(conn.RemoteAddr()), Local: addrPort(conn.LocalAddr())}
	ids := e.clients()
	var failed []*session
	var last error
	for {
		sess, changed := s.agents.pick(ids, failed...)
		if sess != nil {
			st, err := s.openWith(ctx, sess, info, ids, failed)
			if err == nil {
				return st, !sess.features.halfClose, nil
			}
			if ctx.Err() != nil {
				return nil, false, err
			}
			if !errors.Is(err, tunnel.ErrClosed) {
				failed, last = append(failed, sess), err
			}
			continue
		}
		if last != nil {
			return nil, false, last
		}
		select {
		case <-changed:
		case <-patience.C:
			return nil, false, tunnel.ErrOffline
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// openWith opens a stream with one session, and gives up when that is in doubt
// and there is another that is not.
func (s *Server) openWith(ctx context.Context, sess *session, info tunnel.StreamInfo, ids []string, failed []*session) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var look *time.Timer
	ready := make(chan struct{})
	look = time.AfterFunc(lookEvery, func() {
		<-ready
		if sess.doubt.Load() {
			if o, _ := s.agents.pick(ids, append(failed[:len(failed):len(failed)], sess)...); o != nil && !o.doubt.Load() {
				cancel(errInDoubt)
				return
			}
		}
		if ctx.Err() == nil {
			look.Reset(lookEvery)
		}
	})
	close(ready)
	defer look.Stop()
	return sess.OpenStream(ctx, info)
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// proxyLine is version 1 of the PROXY protocol (haproxy's proxy-protocol.txt,
// section 2.1).
func proxyLine(conn net.Conn) []byte {
	from, to := addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())
	family := "TCP4"
	if to.Addr().Is6() {
		family = "TCP6"
	}
	return fmt.Appendf(nil, "PROXY %s %s %s %d %d\r\n", family, from.Addr().WithZone(""), to.Addr().WithZone(""), from.Port(), to.Port())
}
