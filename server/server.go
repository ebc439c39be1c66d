// Package server is the public side of adit: it takes in agents and visitors,
// and brings them together.
//
//	s, err := server.New(server.Options{
//		Listen:   ":8080",
//		PathMode: true,
//		Dialects: []dialect.Dialect{native.New(native.Options{})},
//		Auth:     authenticator,
//	})
//	...
//	err = s.Run(ctx)
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"adit/auth"
	"adit/doctor"
	"adit/ingress"
	"adit/internal/certs"
	"adit/internal/pacing"
	"adit/policy"
	"adit/route"
	"adit/tunnel"
)

const (
	maxHandshakes = 256              // agents that are being admitted at a time
	maxAgents     = 1 << 16          // tunnels at a time
	maxBindings   = 4096             // names for each tunnel
	maxWarmup     = 20 * time.Second // agents try again after 15 s at most
	localDomain   = "localhost"      // RFC 6761, section 6.3
)

// A Server is a running or startable server. Its methods are safe for
// concurrent use.
type Server struct {
	opts   Options
	log    *slog.Logger
	ln     net.Listener
	base   url.URL // how visitors reach it
	domain string  // below which IDs have hostnames

	table *route.Table
	http  *ingress.HTTP
	tcp   *ingress.TCP
	udp   *ingress.UDP

	portHost netip.Addr // of public ports; the zero Addr means all

	tlsLn     net.Listener // nil without Options.TLS, as are the next four
	tls       *ingress.TLS
	certs     certificates
	certFiles *certs.Files
	certDev   *certs.Dev

	policies policies
	forwards forwards
	doctor   *doctor.Handler              // nil with Options.NoDoctor
	quic     *quicDoor                    // nil without Options.QUICListen
	guard    atomic.Pointer[policy.Guard] // of all visitors

	agents sync.WaitGroup // handshakes, tunnels, and what ends them
	memory settler
	began  time.Time
	blocks blocks
	routes routes

	handshakesDone tally // by dialect and result
	binds          tally // by kind and result

	reloading              sync.Mutex // held during Reload
	reloaded, reloadFailed atomic.Uint64
	reloadedAt             atomic.Int64 // in Unix time

	mu          sync.Mutex // guards the fields below
	ran         bool
	draining    bool // Ready says so
	closing     bool // no handshake begins any more, and all tunnels end soon
	handshaking int
	handshakes  map[net.Conn]struct{} // conns of those that got as far
	tunnels     map[tunnel.Tunnel]*binder
	holders     map[string]int // tunnels by subject
}

// New opens the listener of a server. The caller runs it, which closes it. The
// error is an *OptionError for a malformed field, or the system's.
func New(opts Options) (*Server, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Grace == 0 {
		opts.Grace = 10 * time.Second
	}
	if opts.Hold == 0 {
		opts.Hold = 30 * time.Second
	}
	s := &Server{
		opts:       opts,
		log:        opts.Logger,
		domain:     opts.Domain,
		handshakes: make(map[net.Conn]struct{}),
		tunnels:    make(map[tunnel.Tunnel]*binder),
		holders:    make(map[string]int),
		began:      time.Now(),
		blocks:     blocks{path: opts.BlockFile},
		routes:     routes{path: opts.RouteFile, fixed: opts.RoutesFixed},
	}
	s.forwards.init(&opts)
	if s.domain == "" {
		s.domain = localDomain
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	var dialects []string
	for _, d := range opts.Dialects {
		dialects = append(dialects, d.Name())
	}
	s.handshakesDone.init(dialects, handshakeResults)
	s.binds.init(kinds, bindResults)
	if err := s.loadBlocks(); err != nil {
		return nil, err
	}
	if opts.Listen != "" {
		ln, err := listen(opts.Listen)
		if err != nil {
			return nil, err // says where
		}
		s.ln = ln
		if host := s.Addr().Addr().Unmap(); !host.IsUnspecified() {
			s.portHost = host
		}
	}
	if err := s.openTLS(); err != nil {
		if s.ln != nil {
			s.ln.Close()
		}
		return nil, err
	}
	if err := s.openQUIC(); err != nil {
		for _, ln := range []net.Listener{s.ln, s.tlsLn} {
			if ln != nil {
				ln.Close()
			}
		}
		return nil, err
	}
	if !opts.NoDoctor && opts.Rules == nil {
		s.doctor = newDoctor(opts.Version, int(s.QUICAddr().Port()))
	}
	if s.base.Host == "" {
		s.base = s.listenURL()
	}
	s.warnOfNames()
	s.table = route.NewTable(route.Options{
		Domain:        s.domain,
		Hold:          opts.Hold,
		Warmup:        min(opts.Hold, maxWarmup),
		WarmHostnames: !opts.PathMode,
		Logger:        opts.Logger,
	})
	for name := range s.blocks.all {
		s.table.Block(name) // it was checked when it was loaded
	}
	ho := ingress.HTTPOptions{
		Router:         s.router(),
		Domain:         s.domain,
		PathMode:       opts.PathMode,
		Mount:          s.base.Path,
		Scheme:         s.base.Scheme,
		H2C:            opts.H2C,
		TrustedProxies: opts.TrustedProxies,
		Own:            s.own,
		OnRequest:      opts.OnRequest,
		Tracer:         opts.Tracer,
		Rules:          opts.Rules,
		OpenTimeout:    opts.OpenTimeout,
		MaxHeadBytes:   opts.MaxHeadBytes,
		Logger:         opts.Logger,
	}
	if s.tlsLn != nil {
		ho.Scheme = "http" // who comes without TLS has none
		if s.certs != nil {
			ho.Covers = s.certs.Covers
		}
		if opts.TLS.Redirect {
			ho.SecurePort = s.securePort()
		}
	}
	s.http = ingress.NewHTTP(ho)
	s.newTLS()
	s.tcp = ingress.NewTCP(ingress.TCPOptions{
		Router:  s.router(),
		Addr:    s.portHost,
		Ports:   opts.TCPPorts,
		OnVisit: opts.OnRequest,
		Logger:  opts.Logger,

		ProxyProtocolFrom: opts.ProxyProtocolFrom,
	})
	s.udp = ingress.NewUDP(ingress.UDPOptions{
		Router:  s.router(),
		Addr:    s.portHost,
		Ports:   opts.UDPPorts,
		OnVisit: opts.OnRequest,
		Logger:  opts.Logger,
	})
	if err := s.startRoutes(); err != nil {
		s.discard()
		return nil, err
	}
	return s, s.SetPolicy(opts.Policy)
}

// discard closes what New has opened.
func (s *Server) discard() {
	for _, ln := range []net.Listener{s.ln, s.tlsLn} {
		if ln != nil {
			ln.Close()
		}
	}
	s.http.Close()
	s.tcp.Close()
	s.udp.Close()
	s.table.Close()
}

// listen opens a plain TCP listener: one for multipath TCP, which is Go's
// default, has no filters, and so cannot be closed without losing visitors that
// are just connecting (see package lastcall).
func listen(addr string) (net.Listener, error) {
	lc := net.ListenConfig{Control: pacing.Control}
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), "tcp", addr)
}

// check looks at the options, before anything is opened.
func (s *Server) check() (err error) {
	switch o := s.opts; {
	case o.Auth == nil || len(o.Dialects) == 0:
		return errors.New("server: without authenticator and dialects nobody can connect")
	case !o.PathMode && o.Domain == "":
		return errors.New("server: with neither a domain nor paths visitors reach nothing")
	}
	for _, p := range s.opts.ReservedIDs {
		if err := auth.CheckPattern(p); err != nil {
			return &OptionError{"ReservedIDs", err.Error()}
		}
	}
	if err := checkDomain(s.domain); err != nil {
		return &OptionError{"Domain", err.Error()}
	}
	if s.opts.RoutesFixed {
		if _, err := s.checkRoutes(s.opts.Routes); err != nil {
			return &OptionError{"Routes", err.Error()}
		}
	}
	if _, err := newServerGuard(s.opts.Policy); err != nil {
		return err
	}
	if err := s.checkTLS(); err != nil {
		return err
	}
	if s.opts.PublicURL == "" {
		return nil
	}
	s.base, err = parsePublicURL(s.opts.PublicURL)
	if err == nil && s.base.Path != "" && (s.opts.Listen != "" || s.opts.TLS != nil || s.opts.Domain != "") {
		return &OptionError{"PublicURL", fmt.Sprintf("public URL %q: it has a path, which is only for a server without an address and a domain of its own", s.base.String())}
	}
	return err
}

// listens reports whether visitors come in through a port of the server's own.
func (s *Server) listens() bool { return s.ln != nil || s.tlsLn != nil }

// Addr returns the address of Options.Listen, and the zero AddrPort if there is
// none.
func (s *Server) Addr() netip.AddrPort {
	if s.ln == nil {
		return netip.AddrPort{}
	}
	return s.ln.Addr().(*net.TCPAddr).AddrPort()
}

// URL returns how visitors reach the server, and agents too. It is empty if the
// server has no way to know.
func (s *Server) URL() string {
	if !s.listens() && s.opts.PublicURL == "" && s.opts.Domain == "" {
		return ""
	}
	return s.base.String()
}

// ServeHTTP serves visitors and agents that come through the server of another
// program, which mounts this one as a handler:
//
//	go s.Run(ctx)
//	mux.Handle("tunnel.example.com/", s)
//
// Agents come with HTTP/1.1, whose conn they take over; the ResponseWriter must
// let them. Visitors may come with HTTP/2. Below a path, which is then that of
// Options.PublicURL, s is mounted without http.StripPrefix.
//
// It serves while Run does, and also before. When Run's ctx ends it answers what
// it has begun, and new requests with 503; the program ends Run before its own
// server, which does not wait for conns that were taken over.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.http.ServeHTTP(w, r) }
