package carrier

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// A target is what a Dialer's URL says.
type target struct {
	secure bool
	addr   string     // host and port to dial
	name   string     // host alone, for the certificate
	host   string     // for the Host header
	uri    string     // path and query
	query  url.Values // as decoded
}

// target reads d.URL. Its errors repeat no part of the URL but the scheme, the
// host and the port, since people put credentials into all others.
func (d *Dialer) target() (*target, error) {
	_, rest, ok := strings.Cut(d.URL, "://")
	if !ok {
		return nil, errors.New("carrier: URL: must have the form wss://host[:port]/path")
	}
	authority := rest
	if i := strings.IndexAny(rest, `/?#\`); i >= 0 {
		authority = rest[:i]
	}
	if strings.Contains(authority, "@") {
		return nil, errors.New("carrier: URL: must not contain a user or password; send credentials in a header")
	}
	u, err := url.Parse(d.URL)
	if err != nil {
		return nil, errors.New("carrier: URL: malformed; must have the form wss://host[:port]/path")
	}
	t := &target{query: u.Query()}
	port := "80"
	switch u.Scheme {
	case "ws", "http":
	case "wss", "https":
		t.secure, port = true, "443"
	default:
		return nil, fmt.Errorf("carrier: URL: scheme %q; must be ws, wss, http or https", u.Scheme)
	}
	defaultPort := port
	name := u.Hostname()
	if name == "" {
		return nil, errors.New("carrier: URL: host is missing; must have the form wss://host[:port]/path")
	}
	for _, r := range name {
		if r <= ' ' || r >= 0x7f {
			return nil, fmt.Errorf("carrier: URL: host %q; must be in ASCII, an international name in its xn-- form", name)
		}
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return nil, fmt.Errorf("carrier: URL: port %q; must be 1 to 65535", p)
		}
		port = p
	}
	if u.Fragment != "" {
		return nil, errors.New("carrier: URL: must not have a fragment")
	}
	t.addr = net.JoinHostPort(name, port)
	t.name, _, _ = strings.Cut(name, "%") // a zone means nothing to the server
	t.host = t.name
	if strings.Contains(t.host, ":") {
		t.host = "[" + t.host + "]"
	}
	if port != defaultPort {
		t.host += ":" + port
	}
	t.uri = u.RequestURI()
	return t, nil
}
