package server

import (
	"context"
	"crypto/tls"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"adit/carrier/quicconn"
)

const (
	quicHead     = 16 << 10         // bytes of a request's head
	quicHeadTime = 10 * time.Second // for it, from the beginning of the conn
)

// A quicDoor is where agents come in that use QUIC as their carrier. On each
// connection there is one conn, and on that a request, as on those of TCP; but
// for requests of agents nothing is served.
type quicDoor struct {
	ln  *quicconn.Listener
	srv *http.Server
}

// openQUIC opens the UDP port.
func (s *Server) openQUIC() error {
	if s.opts.QUICListen == "" {
		return nil
	}
	config := &tls.Config{
		GetCertificate: s.certs.Certificate,
		MinVersion:     tls.VersionTLS13,
	}
	if pool := s.opts.Auth.Authorities(); pool != nil {
		config.ClientAuth, config.ClientCAs = tls.RequestClientCert, pool
	}
	ln, err := quicconn.Listen(s.opts.QUICListen, config, quicconn.Limits{Conns: maxAgents, Handshakes: maxHandshakes})
	if err != nil {
		return err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	s.quic = &quicDoor{ln: ln, srv: &http.Server{
		Handler:           http.HandlerFunc(s.serveQUIC),
		ReadHeaderTimeout: quicHeadTime,
		IdleTimeout:       quicHeadTime,
		MaxHeaderBytes:    quicHead,
		Protocols:         protocols,
		ErrorLog:          log.New(quietLog{}, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, quicKey{}, c)
		},
	}}
	return nil
}

type quicKey struct{}

// quietLog drops what net/http has to say of conns that failed: agents come and
// go.
type quietLog struct{}

func (quietLog) Write(p []byte) (int, error) { return len(p), nil }

// serveQUIC serves a request for the server itself, and no other.
func (s *Server) serveQUIC(w http.ResponseWriter, r *http.Request) {
	if c, ok := r.Context().Value(quicKey{}).(*quicconn.Conn); ok {
		state := c.TLS()
		r.TLS = &state
	}
	if strings.HasPrefix(r.URL.Path, "/_adit/") {
		if h := s.own(r); h != nil {
			h.ServeHTTP(w, r)
			return
		}
	}
	w.Header().Set("Adit-Error", "not-found")
	http.Error(w, "QUIC is for agents here", http.StatusNotFound)
}

// runQUIC serves the UDP port until it is closed.
func (s *Server) runQUIC(wg *sync.WaitGroup, served chan<- error) {
	wg.Go(func() {
		if err := s.quic.srv.Serve(s.quic.ln); err != http.ErrServerClosed {
			served <- err
		}
	})
}

// QUICAddr returns the address of Options.QUICListen, and the zero AddrPort if
// there is none.
func (s *Server) QUICAddr() netip.AddrPort {
	if s.quic == nil {
		return netip.AddrPort{}
	}
	return s.quic.ln.Addr().(*net.UDPAddr).AddrPort()
}
