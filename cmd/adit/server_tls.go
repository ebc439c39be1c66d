package main

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"

	"github.com/spf13/pflag"

	"adit/config"
	"adit/policy"
	"adit/server"
)

const (
	noListen     = "none"  // of --listen: there is no port without TLS
	tlsListen    = ":443"  // default of --tls-listen
	devTLSListen = ":8443" // the same with --dev-tls
)

// tlsFlags are the flags of adit server about TLS, HTTP/2 and what is in front
// of the server.
type tlsFlags struct {
	listen       string
	certs        []string
	keys         []string
	dev          bool
	redirect     bool
	h2c          bool
	visitorCA    string
	agentCA      string
	proxyHeaders []string
}

func (f *tlsFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.listen, "tls-listen", "", "address for visitors and agents with TLS (default "+tlsListen+" with --tls-cert, "+devTLSListen+" with --dev-tls, otherwise none)")
	fl.StringSliceVar(&f.certs, "tls-cert", nil, "file with a certificate and its chain, in PEM; may be given several times, for several names, and is read again when it changes")
	fl.StringSliceVar(&f.keys, "tls-key", nil, "file with the key of each --tls-cert, in their order (default the certificate's file)")
	fl.BoolVar(&f.dev, "dev-tls", false, "TLS for development, with certificates that nobody trusts who is not told to")
	fl.BoolVar(&f.redirect, "redirect-http", false, "send visitors of --listen to --tls-listen, and refuse agents there")
	fl.BoolVar(&f.h2c, "h2c", false, "let visitors of --listen speak HTTP/2 without TLS, from the first byte")
	fl.StringVar(&f.visitorCA, "visitor-ca-file", "", "file with certificates of authorities; all HTTP visitors need a certificate of one of them")
	fl.StringVar(&f.agentCA, "agent-ca-file", "", "file with certificates of authorities; agents may show a certificate of one of them instead of a token")
	fl.StringSliceVar(&f.proxyHeaders, "proxy-protocol-from", nil, "addresses or prefixes of load balancers, whose connections begin with a header of the PROXY protocol (v1 or v2)")
}

// on reports whether there is a port with TLS.
func (f *tlsFlags) on() bool { return f.listen != "" || len(f.certs) > 0 || f.dev }

// apply puts the flags into the server's options.
func (f *tlsFlags) apply(opts *server.Options, dataDir string) (err error) {
	var problems []error
	wrong := func(err error) { problems = append(problems, err) }
	opts.H2C = f.h2c
	opts.ProxyProtocolFrom, err = parsePrefixes("proxy-protocol-from", f.proxyHeaders)
	wrong(err)
	if opts.Listen == noListen {
		opts.Listen = ""
	}
	switch {
	case f.dev && len(f.certs) > 0:
		wrong(usagef("--dev-tls and --tls-cert: want one or the other"))
	case len(f.keys) > 0 && len(f.keys) != len(f.certs):
		wrong(usagef("--tls-key: there are %d keys for %d certificates of --tls-cert: want one for each, in their order", len(f.keys), len(f.certs)))
	case !f.on() && f.redirect:
		wrong(usagef("--redirect-http: there is no port with TLS (see --tls-cert)"))
	case !f.on() && opts.Listen == "":
		wrong(usagef("--listen %s: there is no port with TLS either (see --tls-cert)", noListen))
	case !f.on() && f.visitorCA != "":
		wrong(usagef("--visitor-ca-file: visitors show certificates with TLS alone (see --tls-cert)"))
	case !f.on() && f.agentCA != "":
		wrong(usagef("--agent-ca-file: agents show certificates with TLS alone (see --tls-cert)"))
	case f.redirect && opts.Listen == "":
		wrong(usagef("--redirect-http: with --listen %s nobody comes without TLS", noListen))
	case f.h2c && opts.Listen == "":
		wrong(usagef("--h2c is about --listen, which is %s", noListen))
	case f.redirect && !f.dev && len(f.certs) == 0:
		wrong(usagef("--redirect-http: nobody could be redirected without a certificate (see --tls-cert)"))
	}
	if f.visitorCA != "" {
		wrong(f.readVisitorCA(&opts.Policy))
	}
	if f.on() {
		opts.TLS = &server.TLSOptions{Listen: f.listen, Redirect: f.redirect}
		if f.dev {
			opts.TLS.DevDir = filepath.Join(dataDir, "dev-tls")
		}
		if f.listen == "" {
			opts.TLS.Listen = tlsListen
			if f.dev {
				opts.TLS.Listen = devTLSListen
			}
		}
		for i, c := range f.certs {
			files := server.CertificateFiles{Cert: c}
			if len(f.keys) == len(f.certs) {
				files.Key = f.keys[i]
			}
			opts.TLS.Certificates = append(opts.TLS.Certificates, files)
		}
		wrong(checkAddress("tls-listen", opts.TLS.Listen))
	}
	return config.Join(problems...)
}

func (f *tlsFlags) readVisitorCA(p *policy.Policy) error {
	b, err := readBounded(f.visitorCA)
	if err != nil {
		return fmt.Errorf("--visitor-ca-file: %w", err)
	}
	p.VisitorCA = string(b)
	if err := p.CheckHTTP(); err != nil {
		return usagef("--visitor-ca-file %s: %v", f.visitorCA, err)
	}
	return nil
}

// checkAddress checks an address to listen on.
func checkAddress(flag, s string) error {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		hint := ""
		if isPort(s) {
			hint = fmt.Sprintf(": did you mean :%s?", s)
		}
		return usagef("--%s %q: want a port of 0 to 65535 with or without a host, such as :8080 or 127.0.0.1:8080%s", flag, s, hint)
	}
	return nil
}

// parsePrefixes parses the addresses of those who are believed when they say
// who somebody else is. To believe everybody would let each visitor pass for
// another, and undo all rules about addresses.
func parsePrefixes(flag string, list []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	var problems []error
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); err != nil && aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		switch {
		case err != nil:
			problems = append(problems, usagef("--%s %q: want an address such as 10.0.0.1 or a prefix such as 10.0.0.0/8", flag, s))
		case p.Bits() == 0:
			problems = append(problems, usagef("--%s %q: with that every visitor could pass for another: name the addresses or networks that yours come from, such as 10.0.0.0/8", flag, s))
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, config.Join(problems...)
}

// warnOfDevTLS says, to people and in the log, that certificates are not real,
// and how one gets to be trusted all the same.
func (p *program) warnOfDevTLS(s *server.Server) {
	file := s.DevAuthority()
	if file == "" {
		return
	}
	if rel, err := filepath.Abs(file); err == nil {
		file = rel
	}
	port := strconv.Itoa(int(s.TLSAddr().Port()))
	fmt.Fprintf(p.out, "\n*** DEVELOPMENT TLS: certificates are made up by this server, and nobody trusts\n"+
		"*** them who is not told to. Do not use it where it matters. To trust them:\n\n"+
		"    curl --cacert %[1]s https://localhost:%[2]s/\n"+
		"    adit http 3000 --server wss://localhost:%[2]s --ca-file %[1]s\n\n", shellQuote(file), port)
}

// shellQuote returns s as a shell takes it for one word.
func shellQuote(s string) string {
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '/' || r == '.' || r == '-' || r == '_') {
			return strconv.Quote(s)
		}
	}
	return s
}

// startedAt are attributes that say where a server is.
func startedAt(s *server.Server) []any {
	var at []any
	if s.Addr().IsValid() {
		at = append(at, "listen", s.Addr().String())
	}
	if s.TLSAddr().IsValid() {
		at = append(at, "tls-listen", s.TLSAddr().String())
	}
	return append(at, "url", s.URL())
}
