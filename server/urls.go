package server

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"

	"adit/tunnel"
)

// maxDomain leaves room for an ID and a dot in a hostname of 253 bytes (RFC
// 1035, section 2.3.4).
const maxDomain = 253 - tunnel.MaxIDLen - 1

// An OptionError says which field of Options is wrong.
type OptionError struct {
	Field  string
	Reason string // names the value and what is allowed
}

func (e *OptionError) Error() string { return "server: " + e.Reason }

// maxHost is the longest host and port that an agent is believed to have used.
const maxHost = 260

// checkDomain checks a domain: labels of letters, digits and '-' in lower case.
func checkDomain(domain string) error {
	if len(domain) > maxDomain {
		return fmt.Errorf("domain %.40q… has %d bytes: it takes at most %d", domain, len(domain), maxDomain)
	}
	if _, err := netip.ParseAddr(domain); err == nil {
		return fmt.Errorf("domain %q is an address: want a name such as tunnel.example.com", domain)
	}
	for label := range strings.SplitSeq(domain, ".") {
		bad := label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool {
				return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
			})
		if bad {
			return fmt.Errorf("domain %q: want a name in lower case such as tunnel.example.com, without port", domain)
		}
	}
	return nil
}

// parsePublicURL checks Options.PublicURL.
func parsePublicURL(s string) (url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" ||
		u.User != nil || !plainPath(u) || u.RawQuery != "" || u.Fragment != "" {
		return url.URL{}, &OptionError{"PublicURL", fmt.Sprintf("public URL %q: want http:// or https:// with a host, such as https://tunnel.example.com", redactUser(s))}
	}
	return url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host), Path: strings.TrimSuffix(u.Path, "/")}, nil
}

// plainPath reports whether the path of a URL is empty, or of the kind that
// nothing on the way writes in another form.
func plainPath(u *url.URL) bool {
	if u.Path == "" || u.Path == "/" {
		return true
	}
	bad := strings.ContainsFunc(u.Path, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._~/", r))
	})
	return !bad && u.RawPath == "" && path.Clean(u.Path) == strings.TrimSuffix(u.Path, "/")
}

// redactUser takes the user and the password out of what may be a URL.
func redactUser(s string) string {
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		return "…" + s[at:]
	}
	return s
}

// listenURL is the URL of the listener itself, and a guess if there is none.
func (s *Server) listenURL() url.URL {
	u := url.URL{Scheme: "http", Host: s.domain}
	if !s.listens() {
		return u
	}
	addr, usual := s.Addr(), uint16(80)
	if s.ln == nil || s.certs != nil {
		u.Scheme, addr, usual = "https", s.TLSAddr(), 443
	}
	if s.opts.Secure != nil {
		u.Scheme, usual = "https", 443
	}
	host := s.opts.Domain
	if host == "" {
		host = addr.Addr().Unmap().String()
		if addr.Addr().IsUnspecified() {
			host = localDomain
		}
	}
	u.Host = net.JoinHostPort(host, strconv.Itoa(int(addr.Port())))
	if addr.Port() == usual {
		u.Host = strings.TrimSuffix(u.Host, ":"+strconv.Itoa(int(usual)))
	}
	return u
}

// baseFor is how visitors reach the server as far as an agent can tell that
// reached it at host, with TLS if secure is set.
func (s *Server) baseFor(host string, secure bool) url.URL {
	if s.opts.PublicURL != "" || s.opts.Domain != "" && s.listens() {
		return s.base
	}
	u, err := url.Parse("http://" + host)
	if err != nil || len(host) > maxHost || u.Host != host || u.Hostname() == "" {
		return s.base
	}
	base := url.URL{Scheme: "http", Host: host}
	if secure {
		base.Scheme = "https"
	}
	if s.opts.Domain != "" {
		base.Host = s.opts.Domain
		if port := u.Port(); port != "" {
			base.Host += ":" + port
		}
	}
	return base
}

// checkHostname checks a hostname that an agent asks for. Those of the server
// itself and of IDs are not to be had that way.
func (s *Server) checkHostname(h string) error {
	if err := tunnel.CheckHostname(h); err != nil {
		return err
	}
	switch {
	case s.base.Path != "":
		return fmt.Errorf("hostname %q: this server is reached at %s, and serves paths alone", h, s.base.String())
	case h == s.domain || strings.HasSuffix(h, "."+s.domain):
		return fmt.Errorf("hostname %q: those of the domain %s go with ids", h, s.domain)
	case h == s.base.Hostname():
		return fmt.Errorf("hostname %q is the server's own", h)
	}
	return nil
}

// urlsFor returns the addresses of an ID with its hostnames, best first, where
// visitors reach the server at base.
func (s *Server) urlsFor(id tunnel.ID, hostnames []string, base url.URL) (urls []string) {
	at := func(hostname string) url.URL {
		u := url.URL{Scheme: base.Scheme, Host: hostname, Path: "/"}
		if port := base.Port(); port != "" {
			u.Host += ":" + port
		}
		return u
	}
	for _, h := range hostnames {
		u := at(h)
		if s.ln != nil && base.Scheme == "https" && s.lacksCertificate(h) && !s.opts.TLS.Redirect {
			u.Scheme, u.Host = "http", net.JoinHostPort(h, strconv.Itoa(int(s.Addr().Port())))
		}
		urls = append(urls, u.String())
	}
	if _, err := tunnel.ParseID(string(id)); err != nil {
		// One of another dialect, which is no label of a hostname. Visitors
		// write it as it is.
		return append(urls, base.String()+"/"+string(id)+"/")
	}
	named := at(string(id) + "." + s.domain)
	path := base
	path.Path = base.Path + "/" + string(id) + "/"
	switch {
	case s.opts.Domain == "":
		urls = append(urls, path.String())
		if isLocal(base.Hostname()) && (base.Scheme == "http" || s.certDev != nil) && base.Path == "" {
			urls = append(urls, named.String())
		}
	case s.opts.PathMode:
		urls = append(urls, named.String(), path.String())
	default:
		urls = append(urls, named.String())
	}
	return urls
}

// isLocal reports whether host is this machine, for those that are on it.
func isLocal(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == localDomain || err == nil && a.IsLoopback()
}
