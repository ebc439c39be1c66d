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
	"crypto/tls"
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
	"adit/dialect"
	"adit/doctor"
	"adit/ingress"
	"adit/internal/certs"
	"adit/internal/pacing"
	"adit/internal/proxyheader"
	"adit/policy"
	"adit/route"
	"adit/tunnel"
)

// Options configures a Server. Dialects and Auth are required.
type Options struct {
	// Listen is the TCP address for visitors and agents alike, such as
	// ":8080". Public ports are bound on its host. If empty, visitors and
	// agents come through ServeHTTP alone, and public ports are bound on all
	// addresses.
	Listen string

	// Domain is the domain below which each ID has a hostname. If empty, IDs
	// have hostnames below "localhost" only, which lead to this machine for
	// those that are on it, and PathMode is required.
	Domain string

	// PathMode serves each ID below /<id>/ too, at Domain itself and at
	// addresses.
	PathMode bool

	// Rules, if not nil, are how visitors are served instead of adit's own
	// way, with the IDs that PathMode and Domain stand for.
	Rules *ingress.Rules

	// Own is asked about requests for the server itself before its dialects
	// are: those of which ingress.HTTPOptions.Own is told. nil means none.
	Own func(*http.Request) http.Handler

	// Secure ends the TLS of all who connect to Listen. If nil, they come
	// without.
	Secure *tls.Config

	// OpenTimeout bounds how long an agent may take to accept a visitor's
	// stream; 0 means 10 s.
	OpenTimeout time.Duration

	// MaxHeadBytes bounds the head of a visitor's request, and of its
	// response; 0 means 64 KiB.
	MaxHeadBytes int

	// PublicURL is how visitors reach the server from outside, if that is not
	// obvious: behind a TLS proxy "https://tunnel.example.com", say. If it
	// and Domain are empty, each agent is told addresses under the host by
	// which it reached the server itself.
	//
	// It has a path only where ServeHTTP is mounted below that path, such as
	// "https://example.com/tunnels"; then there is neither Listen nor Domain.
	PublicURL string

	// TLS is the port for visitors and agents who speak TLS, beside Listen;
	// nil means that there is none.
	TLS *TLSOptions

	// QUICListen is the UDP address for agents that use QUIC as their carrier,
	// with the certificates of TLS, which it needs. If empty, there is none.
	QUICListen string

	// H2C lets visitors without TLS speak HTTP/2 from the first byte, as
	// those with TLS may anyway.
	H2C bool

	// TCPPorts and UDPPorts are the public ports that agents may be given.
	TCPPorts, UDPPorts []ingress.PortRange

	// TrustedProxies are addresses whose forwarded header fields are kept.
	TrustedProxies []netip.Prefix

	// ProxyProtocolFrom are addresses of load balancers whose connections
	// begin with a header of the PROXY protocol, version 1 or 2, which says
	// who is behind them: at Listen, at the port of TLS and at public TCP
	// ports. From there a connection without is closed; from everywhere else
	// a header is not taken for one.
	ProxyProtocolFrom []netip.Prefix

	// Policy is what all visitors are under, beside the policies of the
	// tunnels that they go to: both must let them in. It takes AllowIP,
	// DenyIP, Rate, TotalRate, MaxBody and VisitorCA; the last two are for
	// HTTP visitors alone. See also SetPolicy.
	Policy policy.Policy

	// RegistrantPolicy, if not nil, returns what the visitors of an ID are
	// under whose agent cannot ask for anything: see dialect.Registrant. An
	// error turns the agent away. It may be called by several goroutines.
	RegistrantPolicy func(tunnel.ID) (policy.Policy, error)

	// Hold is how long visitors wait for an agent that is away; 0 means 30 s,
	// negative means not at all.
	Hold time.Duration

	// Dialects are the protocols that agents may speak.
	Dialects []dialect.Dialect

	// Auth decides on agents' claims. The server runs it.
	Auth *auth.Authenticator

	// Forward is where the server connects agents to that ask for it, as far as
	// their credentials allow it too; holders of the shared secret may go
	// everywhere here. If empty, the server forwards nothing. The dialects
	// have to let agents open streams.
	Forward []auth.ForwardRule

	// NoDoctor turns away those who examine the way to the server, without
	// credentials; see package doctor. With Rules that is always so.
	NoDoctor bool

	// ReservedIDs are IDs that agents may bind only if their credentials name
	// them.
	ReservedIDs auth.Reserved

	// MaxAgentsPerSubject is how many agents may be connected at a time with
	// credentials of one subject, but for the shared secret; 0 means any
	// number.
	MaxAgentsPerSubject int

	// Grace is how long Run lets requests finish when its ctx ends; 0 means
	// 10 s, negative that it does not.
	Grace time.Duration

	// DrainDelay is how long Run goes on as before when its ctx ends, but for
	// Ready: load balancers notice, and send visitors elsewhere. 0 means not
	// at all.
	DrainDelay time.Duration

	// Reload is what Server.Reload reads again.
	Reload []Reloader

	// OnRequest is called after each request of an HTTP visitor, and after each
	// visitor of other protocols; it must not block. Tracer follows requests.
	// Either may be nil.
	OnRequest func(ingress.Finished)
	Tracer    ingress.Tracer

	// BlockFile is where the names that the operator has blocked last. If
	// empty, they are forgotten with the server.
	BlockFile string

	// Routes are the operator's rules for who serves which name, if
	// RoutesFixed is set. Otherwise they are set through the admin API, and
	// RouteFile is where they last; if that is empty, they are forgotten with
	// the server.
	Routes      []route.Rule
	RoutesFixed bool
	RouteFile   string

	// Version is that of the program, for operators.
	Version string

	// Logger receives the server's events. If nil, nothing is logged.
	Logger *slog.Logger
}

const (
	maxHandshakes = 256              // agents that are being admitted at a time
	maxAgents     = 1 << 16          // tunnels at a time
	maxBindings   = 4096             // names for each tunnel
	maxWarmup     = 20 * time.Second // agents try again after 15 s at most
	localDomain   = "localhost"      // RFC 6761, section 6.3
)

// errRan says that a Server was run before.
var errRan = errors.New("server: Run was called before")

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

// Run serves until ctx ends or the listener fails. When ctx ends it says so in
// Ready, tells agents to look for another server, and goes on for
// Options.DrainDelay. Then it takes no new visitors, lets what they have begun
// finish for Options.Grace, and returns nil when nothing of the server is left.
// It can be called once.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	ran := s.ran
	s.ran = true
	s.mu.Unlock()
	if ran {
		return errRan
	}
	served := make(chan error, 4)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	if s.ln != nil {
		ln := proxyheader.Listen(s.ln, s.opts.ProxyProtocolFrom)
		if s.opts.Secure != nil {
			ln = secureListener{s.ln.(*net.TCPListener), s.opts.Secure}
		}
		wg.Go(func() { served <- s.http.Serve(serving, ln) })
	}
	if s.tls != nil {
		s.runTLS(serving, &wg, served)
	}
	if s.quic != nil {
		s.runQUIC(&wg, served)
	}
	wg.Go(func() { s.opts.Auth.Run(serving, s.recheckAll) })

	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		err = s.drain(served)
	}
	stop()
	if s.tls != nil {
		s.tls.Close()
	}
	s.http.Close()
	if s.doctor != nil {
		s.doctor.Close()
	}
	s.tcp.Close()
	s.udp.Close()
	if s.quic != nil {
		s.quic.srv.Close()
	}
	s.endAll()
	s.table.Close()
	s.agents.Wait()
	if s.quic != nil {
		s.quic.ln.End()
	}
	s.memory.stop()
	wg.Wait()
	return err
}

// drain lets what is going on come to its end, for the grace period. The error
// is that of a listener that fails before.
func (s *Server) drain(served <-chan error) error {
	s.log.Info("draining", "delay", s.opts.DrainDelay, "grace", max(s.opts.Grace, 0))
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	for _, b := range s.binders() {
		if d, ok := b.tunnel.(tunnel.Drainer); ok {
			d.Drain("the server is shutting down")
		}
	}
	if s.opts.DrainDelay > 0 {
		s.http.Retire()
		delay := time.NewTimer(s.opts.DrainDelay)
		defer delay.Stop()
		select {
		case <-delay.C:
		case err := <-served:
			return err
		}
	}
	s.close()
	s.table.Drain() // nobody need wait for an agent: none is coming
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Grace)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { s.http.Shutdown(ctx) })
	if s.tls != nil {
		wg.Go(func() { s.tls.Shutdown(ctx) })
	}
	wg.Go(func() { s.tcp.Shutdown(ctx) })
	wg.Go(func() { s.udp.Shutdown(ctx) })
	wg.Go(func() { s.forwards.shutdown(ctx) })
	wg.Wait()
	return nil
}

// close admits no more agents, and returns the tunnels of those that are here.
func (s *Server) close() []tunnel.Tunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	all := make([]tunnel.Tunnel, 0, len(s.tunnels))
	for t := range s.tunnels {
		all = append(all, t)
	}
	return all
}

// endAll ends all tunnels and handshakes.
func (s *Server) endAll() {
	tunnels := s.close()
	s.mu.Lock()
	for c := range s.handshakes {
		c.Close()
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, t := range tunnels {
		wg.Go(func() { end(t, tunnel.EndShutdown, "the server is shutting down") })
	}
	wg.Wait()
}

func end(t tunnel.Tunnel, code tunnel.EndCode, reason string) error {
	if e, ok := t.(tunnel.Ender); ok {
		return e.End(code, reason)
	}
	return t.Close()
}
