package forest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/clienthello"
)

// ServerOptions configures a Server beyond its file.
type ServerOptions struct {
	// Log receives what happens, and why who was refused. If nil, it is lost.
	Log *log.Logger

	// StateFile keeps the tunnels over a restart; empty means that they go. With
	// StateOptional a failure to write it is only logged.
	StateFile     string
	StateOptional bool

	// MaxVisitors bounds the visitors at a time; 0 means 65536. One more is
	// disconnected.
	MaxVisitors int64

	// Listen listens for agents and management; nil means TCP on all addresses.
	Listen func(port int) (net.Listener, error)
}

// A Server is one server with its agents, its tunnels and their visitors.
type Server struct {
	config  ServerConfig
	opts    ServerOptions
	log     *log.Logger
	tls     *tls.Config // nil without TLS
	revoked *revoked
	agents  *registry
	front   *clienthello.Front

	share   netip.AddrPort              // where somebody else listens for it; see RunShared
	shared  atomic.Pointer[[]*listener] // of that port
	handoff *handoff                    // of agents who came there; nil if ListenPort is another

	ctx      context.Context // of Run; ends visitors and sessions
	wg       group           // of all goroutines but those of net/http
	visitors atomic.Int64

	setMu     sync.Mutex // held while the set changes; guards the fields below
	listeners map[listenKey]*listener
	set       []Entry
	form      form
}

// NewServer reads the files that c names. Run serves.
func NewServer(c ServerConfig, opts ServerOptions) (*Server, error) {
	if opts.Log == nil {
		opts.Log = log.New(io.Discard, "", 0)
	}
	if opts.MaxVisitors <= 0 {
		opts.MaxVisitors = 1 << 16
	}
	if opts.Listen == nil {
		opts.Listen = func(port int) (net.Listener, error) { return net.Listen("tcp", ":"+strconv.Itoa(port)) }
	}
	s := &Server{config: c, opts: opts, log: opts.Log, agents: newRegistry(), front: clienthello.NewFront(), listeners: make(map[listenKey]*listener)}
	if !c.UseTls {
		s.log.Print("warning: UseTls is false, so everybody may be any client, and replace all tunnels")
		return s, nil
	}
	var err error
	if s.revoked, err = openRevoked(c.RevokedCertificatesFile, s.log); err != nil {
		return nil, err
	}
	s.tls, err = serverTLS(c, s.revoked, s.log)
	return s, err
}

// Run listens and serves until ctx ends or a port fails, and then ends
// everything and waits for it. It may be called once.
func (s *Server) Run(ctx context.Context) error { return s.run(ctx, func() {}) }

func (s *Server) run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.ctx = ctx
	ports := []struct {
		port    int
		handler http.Handler
	}{{s.config.ListenPort, http.HandlerFunc(s.serveBoth)}}
	if s.config.twoPort() {
		ports[0].port, ports[0].handler = s.config.TunnelControlPort, http.HandlerFunc(s.serveControl)
		ports = append(ports, ports[0])
		ports[1].port, ports[1].handler = s.config.ManagementPort, http.HandlerFunc(s.serveManagement)
	}
	var servers []*http.Server
	var listeners []net.Listener
	for _, p := range ports {
		ln, err := s.listenControl(p.port)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return err
		}
		s.log.Printf("listening on %s", ln.Addr())
		listeners = append(listeners, ln)
		servers = append(servers, s.httpServer(p.handler))
	}
	if err := s.restore(ctx); err != nil {
		s.log.Printf("error: the tunnels of before the restart are lost: %v", err)
	}
	ready()
	var wg sync.WaitGroup
	for i, srv := range servers {
		wg.Go(func() {
			if s.tls != nil && s.handoff == nil {
				cancel(srv.ServeTLS(socketListener{listeners[i]}, "", ""))
			} else {
				cancel(srv.Serve(listeners[i]))
			}
		})
	}
	if s.revoked != nil {
		wg.Go(func() { s.endRevoked(ctx) })
	}
	<-ctx.Done()
	for _, srv := range servers {
		srv.Close()
	}
	wg.Wait()
	s.wg.end()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listenControl listens for agents and management, or takes them from whoever
// listens at the port.
func (s *Server) listenControl(port int) (net.Listener, error) {
	if !s.share.IsValid() || port != int(s.share.Port()) {
		return s.opts.Listen(port)
	}
	s.handoff = newHandoff(s.share)
	return s.handoff, nil
}

func (s *Server) httpServer(h http.Handler) *http.Server {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: handshakeTime,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          s.log, // the reasons of TLS to refuse a certificate
	}
	if s.tls != nil {
		srv.TLSConfig = s.tls.Clone()
	}
	return srv
}

// identify checks the certificate against what the request says, and returns
// who the agent is, or why not, as the original says it.
func (s *Server) identify(r *http.Request) (claim, error) {
	c := claimOf(r.Header)
	if s.tls == nil {
		if !validID(c.id) {
			return c, fmt.Errorf("\"X-Threshold-ClientId: %.64s\" is no identifier", c.id)
		}
		return c, nil
	}
	cn := r.TLS.PeerCertificates[0].Subject.CommonName
	if c.header == "" {
		c.id, _ = strings.CutSuffix(cn, "@"+s.config.Domain) // as threshold has it
	}
	ok := c.id+"@"+s.config.Domain == cn
	if s.config.twoPort() && s.config.Domain == "" {
		// The first generation lets any certificate take any identifier; the
		// state that first sent this header compares the two.
		ok = c.header == headerPorts || c.header == headerServices || c.header == headerClientID && c.id == cn
	}
	if !ok || !validID(c.id) {
		return c, fmt.Errorf("\"X-Threshold-ClientId: %.*s\" does not match TLS certificate CommonName %s", maxID, claimOf(r.Header).id, cn)
	}
	return c, nil
}

// endRevoked ends sessions whose certificate is revoked while they last.
func (s *Server) endRevoked(ctx context.Context) {
	tick := time.NewTicker(revokedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, sess := range s.agents.sessions() {
			tc, ok := sess.conn.Conn.(*tls.Conn)
			if !ok {
				continue
			}
			if err := s.revoked.check(tc.ConnectionState().PeerCertificates); err != nil {
				s.log.Printf("client %s from %s is disconnected: %v", sess.claim.id, sess.remote, err)
				sess.Close()
			}
		}
	}
}

func (s *Server) debugf(format string, args ...any) {
	if s.config.DebugLog {
		s.log.Printf(format, args...)
	}
}
