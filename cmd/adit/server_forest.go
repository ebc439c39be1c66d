package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"adit/dialect/forest"
	"adit/ingress"
	"adit/server"
)

// serverForestFlags let clients of forest/tunnel connect to adit server, and
// have tunnels by name at its port for TLS.
type serverForestFlags struct {
	config string
}

func (f *serverForestFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.config, "forest-config", "", "JSON file of a server of forest/tunnel, whose tunnels are at --tls-listen then, by name (default no such clients)")
}

// apply reads the file, and what it names, after the flags about TLS have been
// applied.
func (f *serverForestFlags) apply(opts *server.Options) error {
	switch {
	case f.config == "":
		return nil
	case opts.TLS == nil:
		return usagef("--forest-config: there is no port with TLS (see --tls-listen)")
	}
	b, err := readForestConfig(f.config)
	if err != nil {
		return fmt.Errorf("--forest-config: %w", err)
	}
	c, unknown, err := forest.ParseServerConfig(b)
	if err == nil {
		err = c.CheckShared()
	}
	if err != nil {
		return usagef("--forest-config %s: %v", f.config, err)
	}
	logger := slog.NewLogLogger(opts.Logger.With("dialect", "forest").Handler(), slog.LevelInfo)
	for _, key := range unknown {
		logger.Printf("warning: the configuration has the unknown key %q", key)
	}
	s, err := newForestServer(c, f.config, logger)
	if err != nil {
		return fmt.Errorf("--forest-config %s: %w", f.config, err)
	}
	if err := checkForestNames(s, c, opts); err != nil {
		return usagef("--forest-config %s: %v", f.config, err)
	}
	opts.TLS.Guests = forestGuests{s}
	return nil
}

// checkForestNames finds names of the server itself among those by which clients
// would come to the same port: they would get its own certificate.
func checkForestNames(s *forest.Server, c forest.ServerConfig, opts *server.Options) error {
	if _, port, _ := net.SplitHostPort(opts.TLS.Listen); port != strconv.Itoa(c.ListenPort) {
		return nil
	}
	own := []string{"localhost", opts.Domain}
	if u, err := url.Parse(opts.PublicURL); err == nil {
		own = append(own, u.Hostname())
	}
	names := s.ControlNames()
	if len(names) == 0 {
		return errors.New("ServerTlsCertificateFile: the certificate has no DNS name, by which clients would be told from visitors at the port that ListenPort shares with --tls-listen")
	}
	for _, n := range names {
		if slices.Contains(own, n) || opts.Domain != "" && strings.HasSuffix(n, "."+opts.Domain) || strings.HasSuffix(n, ".localhost") {
			return fmt.Errorf("ServerTlsCertificateFile: the certificate is for %q, which is a name of adit server itself: want another name, or another ListenPort than that of --tls-listen", n)
		}
	}
	return nil
}

// forestGuests are the visitors of a server of forest/tunnel, as those of
// adit server.
type forestGuests struct{ *forest.Server }

var _ server.Guests = forestGuests{}

func (g forestGuests) Run(ctx context.Context, addr netip.AddrPort, ready func()) error {
	return g.RunShared(ctx, addr, ready)
}

func (g forestGuests) Guest(name string, local netip.AddrPort) (guest *ingress.Guest, exact bool) {
	m, ok := g.Match(name, local)
	switch {
	case !ok:
		return nil, false
	case m.Control:
		return &ingress.Guest{Handshake: g.ServeControl}, true
	}
	return &ingress.Guest{Rest: m.Any, Visit: func(ctx context.Context, conn net.Conn, raw []byte) (ingress.Visited, error) {
		met, err := g.Visit(ctx, m, conn, raw)
		return ingress.Visited{ID: met.ID, Service: met.Service, Sent: met.AtoB, Received: met.BtoA}, err
	}}, m.Exact
}
