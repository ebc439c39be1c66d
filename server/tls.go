package server

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"sync"

	"adit/ingress"
	"adit/internal/certs"
	"adit/internal/proxyheader"
	"adit/policy"
	"adit/tunnel"
)

// TLSOptions configures the port for visitors and agents who speak TLS.
type TLSOptions struct {
	// Listen is its TCP address, such as ":443".
	Listen string

	// Certificates are shown to visitors by the names that they are for, and
	// the first to those who name nobody. They are read again when the files
	// change. Without any the port is only for tunnels whose upstreams end
	// TLS themselves.
	Certificates []CertificateFiles

	// DevDir, if not empty, is a folder with an authority that signs
	// certificates for whatever name a visitor asks for. It is made there if
	// need be. This is for development, and excludes Certificates.
	DevDir string

	// Redirect sends visitors who come to Options.Listen here, and refuses
	// agents there.
	Redirect bool

	// Guests get visitors beside the server's own agents; nil means that there
	// are none.
	Guests Guests
}

// CertificateFiles are a certificate, with the chain behind it, and its key, in
// PEM. An empty Key means that the key is in the same file.
type CertificateFiles struct{ Cert, Key string }

// A certificates is where certificates come from: *certs.Files or *certs.Dev.
type certificates interface {
	ingress.Certificates
	Covers(serverName, host string) bool
}

// checkTLS looks at the options, before anything is opened.
func (s *Server) checkTLS() error {
	o := s.opts.TLS
	switch {
	case s.opts.QUICListen != "" && (o == nil || o.DevDir == "" && len(o.Certificates) == 0):
		return &OptionError{"QUICListen", "QUIC needs a certificate, as for TLS"}
	case o == nil:
	case o.Listen == "":
		return &OptionError{"TLS.Listen", "TLS without an address to listen on"}
	case o.DevDir != "" && len(o.Certificates) > 0:
		return &OptionError{"TLS.DevDir", "certificates for development beside real ones: want one or the other"}
	case o.Redirect && s.opts.Listen == "":
		return &OptionError{"TLS.Redirect", "there is no port without TLS to redirect from"}
	case o.Redirect && o.DevDir == "" && len(o.Certificates) == 0:
		return &OptionError{"TLS.Redirect", "without a certificate nobody could be redirected"}
	}
	return nil
}

// openTLS opens the port and what it shows.
func (s *Server) openTLS() error {
	o := s.opts.TLS
	if o == nil {
		return nil
	}
	if len(o.Certificates) > 0 {
		var pairs []certs.Pair
		for _, c := range o.Certificates {
			pairs = append(pairs, certs.Pair(c))
		}
		files, err := certs.Open(pairs, certs.Options{Logger: s.log})
		if err != nil {
			return err
		}
		s.certFiles, s.certs = files, files
		s.opts.Reload = append(s.opts.Reload, Reloader{Name: "certificates", Prepare: files.Prepare})
	}
	ln, err := listen(o.Listen)
	if err != nil {
		return err // says where
	}
	s.tlsLn = ln
	if o.DevDir != "" {
		dev, err := certs.OpenDev(o.DevDir, s.ownNames())
		if err != nil {
			ln.Close()
			return err
		}
		s.certDev, s.certs = dev, dev
	}
	return nil
}

// ownNames are the names and addresses by which the server itself is reached.
func (s *Server) ownNames() []string {
	names := []string{s.domain}
	if s.domain != localDomain {
		names = append(names, localDomain)
	}
	if h := s.base.Hostname(); h != "" && h != s.domain {
		names = append(names, h)
	}
	ip := s.TLSAddr().Addr().Unmap()
	if !ip.IsUnspecified() {
		if !ip.IsLoopback() {
			names = append(names, ip.String())
		}
		return append(names, "127.0.0.1", "::1")
	}
	names = append(names, "127.0.0.1", "::1")
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			names = append(names, n.IP.String())
		}
	}
	return names
}

// warnOfNames logs which names of the server have no certificate.
func (s *Server) warnOfNames() {
	if s.certFiles == nil {
		return
	}
	if h := s.base.Hostname(); s.base.Scheme == "https" && net.ParseIP(h) == nil && !s.certFiles.Has(h) {
		s.log.Warn("no certificate is for the server's own name: visitors and agents who ask for it are refused", "host", h)
	}
	if s.opts.Domain != "" && !s.certFiles.HasWildcard(s.opts.Domain) {
		s.log.Warn("no certificate is for all names below the domain: visitors of the others are refused", "want", "*."+s.opts.Domain)
	}
}

// lacksCertificate reports whether visitors who ask for a hostname with TLS are
// refused because there is no certificate for it. Somebody else who ends TLS
// before the server may have one.
func (s *Server) lacksCertificate(hostname string) bool {
	return s.certs != nil && s.opts.PublicURL == "" && !s.certs.Has(hostname)
}

// newTLS makes the ingress of the port.
func (s *Server) newTLS() {
	if s.tlsLn == nil {
		return
	}
	o := ingress.TLSOptions{Router: s.router(), HTTP: s.http, Ask: s.askFor, OnVisit: s.opts.OnRequest, Logger: s.log}
	if s.certs != nil {
		o.Certificates = s.certs
	}
	if s.opts.TLS.Guests != nil {
		o.Guests = guests{s}
	}
	s.tls = ingress.NewTLS(o)
}

// runTLS serves the port until ctx ends.
func (s *Server) runTLS(ctx context.Context, wg *sync.WaitGroup, served chan<- error) {
	if s.certFiles != nil {
		wg.Go(func() { s.certFiles.Watch(ctx) })
	}
	s.runGuests(ctx, wg.Go, served)
	wg.Go(func() { served <- s.tls.Serve(ctx, proxyheader.Listen(s.tlsLn, s.opts.ProxyProtocolFrom)) })
}

// TLSAddr returns the address of Options.TLS, and the zero AddrPort if there is
// none.
func (s *Server) TLSAddr() netip.AddrPort {
	if s.tlsLn == nil {
		return netip.AddrPort{}
	}
	return s.tlsLn.Addr().(*net.TCPAddr).AddrPort()
}

// Redirects reports whether visitors and agents without TLS are turned away.
func (s *Server) Redirects() bool { return s.opts.TLS != nil && s.opts.TLS.Redirect }

// DevAuthority is the file with the certificate that whoever connects has to be
// told to trust, if certificates are for development, and empty otherwise.
func (s *Server) DevAuthority() string {
	if s.certDev == nil {
		return ""
	}
	return s.certDev.AuthorityFile()
}

// securePort is the port at which visitors reach the server with TLS.
func (s *Server) securePort() uint16 {
	if s.opts.PublicURL != "" && s.base.Scheme == "https" {
		if s.base.Port() == "" {
			return 443
		}
		if n, err := strconv.ParseUint(s.base.Port(), 10, 16); err == nil {
			return uint16(n)
		}
	}
	return s.TLSAddr().Port()
}

// tlsURLs returns the addresses of a tunnel whose upstream ends TLS.
func (s *Server) tlsURLs(id tunnel.ID, hostnames []string) (urls []string) {
	port := strconv.Itoa(int(s.securePort()))
	for _, h := range append(hostnames[:len(hostnames):len(hostnames)], string(id)+"."+s.domain) {
		u := url.URL{Scheme: "tls", Host: net.JoinHostPort(h, port)}
		urls = append(urls, u.String())
	}
	return urls
}

// askFor returns whose certificates a visitor who asks for name is asked for.
// The policies look at them, and for agents the authenticator; an empty pool
// means that no authority is named, for there may be several.
func (s *Server) askFor(name string) *x509.CertPool {
	var hints []string
	ask := false
	add := func(g *policy.Guard) {
		if g == nil {
			return
		}
		if pem, required := g.VisitorCA(); required {
			hints, ask = append(hints, pem), true
		}
	}
	add(s.guard.Load())
	e, bound := s.table.Peek(name)
	if bound {
		add(e.Policy)
	}
	agents := s.opts.Auth.Authorities()
	if !bound && s.opts.PathMode && s.policies.ask() {
		ask = true // the path may be that of a tunnel that asks, and says who signs only then
		hints = nil
	}
	switch {
	case bound || agents == nil:
		if !ask {
			return nil
		}
	case ask:
		return x509.NewCertPool() // either may come
	default:
		return agents
	}
	pool := x509.NewCertPool()
	if len(hints) == 1 {
		pool.AppendCertsFromPEM([]byte(hints[0]))
	}
	return pool
}

// errNoTLS is why nothing is bound for TLS.
var errNoTLS = errors.New("this server has no port for TLS (its operator sets --tls-listen)")
