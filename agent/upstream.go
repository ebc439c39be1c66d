package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// dialTimeout bounds the dial to an upstream.
const dialTimeout = 10 * time.Second

// An Upstream is what streams are relayed to, or a Listener or http.Handler that
// takes them.
type Upstream struct {
	network string // "tcp" or "unix"; empty for what is not dialled
	addr    string
	tls     *tls.Config  // nil for plain conns
	ln      *Listener    // nil for all others
	handler http.Handler // nil for all others
	behind  *Upstream    // that the handler relays to; nil for all others
}

// ParseUpstream understands a port ("3000", on localhost), "host:port",
// "tcp://host:port", "http://host[:port]", "https://host[:port]" and
// "unix:/path". https verifies the upstream's certificate.
func ParseUpstream(s string) (*Upstream, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if path == "" {
			return nil, fmt.Errorf("upstream %q names no socket", s)
		}
		return &Upstream{network: "unix", addr: path}, nil
	}
	if strings.Contains(s, "://") {
		return parseUpstreamURL(s)
	}
	if !strings.Contains(s, ":") {
		return newTCPUpstream(s, ":"+s)
	}
	return newTCPUpstream(s, s)
}

func parseUpstreamURL(s string) (*Upstream, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("upstream %q is not a URL with a host", s)
	}
	if u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("upstream %s://%s has more than a host and a port", u.Scheme, u.Host)
	}
	def := map[string]string{"http": "80", "https": "443", "tcp": ""}
	port, ok := def[u.Scheme]
	if !ok {
		return nil, fmt.Errorf("upstream %q has the scheme %q: http, https, tcp and unix are allowed", s, u.Scheme)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	up, err := newTCPUpstream(s, net.JoinHostPort(u.Hostname(), port))
	if err == nil && u.Scheme == "https" {
		up.tls = &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}}
	}
	return up, err
}

// newTCPUpstream returns the upstream at addr; s is how the user wrote it.
func newTCPUpstream(s, addr string) (*Upstream, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("upstream %q: want a port, host:port or a URL", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, fmt.Errorf("upstream %q has the port %q: 1 to 65535 are allowed", s, port)
	}
	if host == "" {
		host = "localhost"
	}
	return &Upstream{network: "tcp", addr: net.JoinHostPort(host, port)}, nil
}

// String returns the upstream as ParseUpstream understands it, or the name of
// a Listener.
func (u *Upstream) String() string {
	switch {
	case u.network == "unix":
		return "unix:" + u.addr
	case u.tls != nil:
		return "https://" + u.addr
	}
	return u.addr
}

func (u *Upstream) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if u.tls != nil {
		return (&tls.Dialer{Config: u.tls}).DialContext(ctx, u.network, u.addr)
	}
	return (&net.Dialer{}).DialContext(ctx, u.network, u.addr)
}

// InProcess reports whether u is part of this program, and so always answers:
// a Listener or a handler.
func (u *Upstream) InProcess() bool { return u.network == "" && u.behind == nil }

// Check reports whether u answers now: it connects, with TLS if that is asked
// for, and hangs up. What is inside this program always answers. ctx bounds the
// attempt, besides a limit of 10 s.
func (u *Upstream) Check(ctx context.Context) error {
	if u.behind != nil {
		return u.behind.Check(ctx)
	}
	if u.InProcess() {
		return nil
	}
	c, err := u.dial(ctx)
	if err != nil {
		return err
	}
	return c.Close()
}
