// Package server is the public side of adit: it takes in agents and visitors,
// and brings them together.
//
//	s, err := server.New(server.Options{Listen: ":8080", Secrets: secrets})
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
	"strings"
	"sync"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/ingress"
	"adit/route"
	"adit/tunnel"
)

// Options configures a Server. Listen, Dialects and Auth are required.
type Options struct {
	// Listen is the TCP address for visitors and agents alike, such as
	// ":8080". Public TCP ports are bound on its host.
	Listen string

	// Domain is the domain below which each ID has a hostname. If empty,
	// there are only paths.
	Domain string

	// PathMode serves each ID below /<id>/ too, at Domain itself and at
	// addresses.
	PathMode bool

	// PublicURL is how visitors reach Listen from outside, if that is not
	// obvious: behind a TLS proxy "https://tunnel.example.com", say. Only
	// scheme, host and port count.
	PublicURL string

	// TCPPorts are the public TCP ports that agents may be given.
	TCPPorts []ingress.PortRange

	// TrustedProxies are addresses whose forwarded header fields are kept.
	TrustedProxies []netip.Prefix

	// Hold is how long visitors wait for an agent that is away; 0 means 30 s.
	Hold time.Duration

	// Dialects are the protocols that agents may speak.
	Dialects []dialect.Dialect

	// Auth decides on agents' claims.
	Auth *auth.Authenticator

	// Grace is how long Run lets requests finish when its ctx ends; 0 means
	// 10 s.
	Grace time.Duration

	// Logger receives the server's events. If nil, nothing is logged.
	Logger *slog.Logger
}

const (
	maxHandshakes = 256  // agents that are being admitted at a time
	maxBindings   = 4096 // for each agent
)

// A Server is a running or startable server. Its methods are safe for
// concurrent use.
type Server struct {
	opts Options
	log  *slog.Logger
	ln   net.Listener
	base url.URL // how visitors reach it

	table *route.Table
	http  *ingress.HTTP
	tcp   *ingress.TCP
	admit chan struct{} // a place for each handshake

	watching sync.WaitGroup // for the ends of tunnels that tell nobody

	mu      sync.Mutex // guards the fields below
	tunnels map[tunnel.Tunnel]struct{}
	closing bool
}

// New opens the listener of a server. The caller runs it, which closes it.
func New(opts Options) (*Server, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Grace == 0 {
		opts.Grace = 10 * time.Second
	}
	if opts.Auth == nil || len(opts.Dialects) == 0 {
		return nil, errors.New("server: without authenticator and dialects nobody can connect")
	}
	if !opts.PathMode && opts.Domain == "" {
		return nil, errors.New("server: with neither a domain nor paths visitors reach nothing")
	}
	ln, err := net.Listen("tcp", opts.Listen)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	s := &Server{
		opts:    opts,
		log:     opts.Logger,
		ln:      ln,
		admit:   make(chan struct{}, maxHandshakes),
		tunnels: make(map[tunnel.Tunnel]struct{}),
	}
	if s.base, err = s.publicURL(); err != nil {
		ln.Close()
		return nil, err
	}
	s.table = route.NewTable(route.Options{Domain: opts.Domain, Hold: opts.Hold, Logger: opts.Logger})
	s.http = ingress.NewHTTP(ingress.HTTPOptions{
		Router:         s.table,
		Domain:         opts.Domain,
		PathMode:       opts.PathMode,
		Scheme:         s.base.Scheme,
		TrustedProxies: opts.TrustedProxies,
		Own:            s.own,
		Logger:         opts.Logger,
	})
	host := ln.Addr().(*net.TCPAddr).AddrPort().Addr()
	if host.IsUnspecified() {
		host = netip.Addr{}
	}
	s.tcp = ingress.NewTCP(ingress.TCPOptions{
		Router: s.table,
		Addr:   host,
		Ports:  opts.TCPPorts,
		Logger: opts.Logger,
	})
	return s, nil
}

// Addr returns the address that the server listens on.
func (s *Server) Addr() netip.AddrPort { return s.ln.Addr().(*net.TCPAddr).AddrPort() }

// publicURL works out how visitors reach the listener.
func (s *Server) publicURL() (url.URL, error) {
	if s.opts.PublicURL != "" {
		u, err := url.Parse(s.opts.PublicURL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
			return url.URL{}, fmt.Errorf("server: public URL %q: want http:// or https:// and a host", s.opts.PublicURL)
		}
		return url.URL{Scheme: u.Scheme, Host: u.Host}, nil
	}
	addr := s.Addr()
	host := s.opts.Domain
	if host == "" {
		host = addr.Addr().String()
		if addr.Addr().IsUnspecified() {
			host = "localhost"
		}
	}
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(host, fmt.Sprint(addr.Port()))}
	if addr.Port() == 80 {
		u.Host = strings.TrimSuffix(u.Host, ":80")
	}
	return u, nil
}

// URL returns how visitors reach the server, and agents too.
func (s *Server) URL() string { return s.base.String() }

// Run serves until ctx ends or the listener fails. When ctx ends it takes no
// new visitors, tells agents to go elsewhere, lets requests finish for
// Options.Grace, and returns nil when nothing of the server is left.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { served <- s.http.Serve(serving, s.ln) })

	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		s.drain()
	}
	stop()
	s.http.Close()
	s.endAll()
	s.tcp.Close()
	s.table.Close()
	s.watching.Wait()
	wg.Wait()
	return err
}

// drain lets what is going on come to its end, for the grace period.
func (s *Server) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Grace)
	defer cancel()
	s.log.Info("draining", "dur", s.opts.Grace)
	s.mu.Lock()
	s.closing = true
	tunnels := s.allLocked()
	s.mu.Unlock()
	for _, t := range tunnels {
		if d, ok := t.(tunnel.Drainer); ok {
			d.Drain("the server is shutting down")
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.http.Shutdown(ctx) })
	wg.Go(func() { s.tcp.Shutdown(ctx) })
	wg.Wait()
}

func (s *Server) allLocked() []tunnel.Tunnel {
	all := make([]tunnel.Tunnel, 0, len(s.tunnels))
	for t := range s.tunnels {
		all = append(all, t)
	}
	return all
}

// endAll ends all tunnels.
func (s *Server) endAll() {
	s.mu.Lock()
	s.closing = true
	tunnels := s.allLocked()
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

// own returns the handler of requests for the server itself.
func (s *Server) own(r *http.Request) http.Handler {
	for _, d := range s.opts.Dialects {
		if d.Match(r) {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.accept(d, w, r) })
		}
	}
	return nil
}

// accept takes in an agent.
func (s *Server) accept(d dialect.Dialect, w http.ResponseWriter, r *http.Request) {
	log := s.log.With("dialect", d.Name(), "remote", r.RemoteAddr)
	var id *auth.Identity
	t, err := d.Accept(w, r, func(ctx context.Context, claim auth.Claim) (*auth.Identity, error) {
		select {
		case s.admit <- struct{}{}:
			defer func() { <-s.admit }()
		default:
			return nil, &auth.Error{Code: auth.Busy, Reason: "too many agents connect at once"}
		}
		var err error
		id, err = s.opts.Auth.Authenticate(ctx, claim)
		return id, err
	})
	switch {
	case errors.Is(err, dialect.ErrResumed):
		return
	case err != nil:
		log.Warn("agent not admitted", "err", err)
		return
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		end(t, tunnel.EndShutdown, "the server is shutting down")
		return
	}
	s.tunnels[t] = struct{}{}
	s.mu.Unlock()
	log.Info("agent connected", "tunnel", string(t.ID()), "subject", id.Subject)
	b := &binder{server: s, tunnel: t, identity: id, log: log}
	b.watch()
}

// forget takes t out of the server when it has ended.
func (s *Server) forget(t tunnel.Tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tunnels, t)
}
