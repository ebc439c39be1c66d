package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"adit/forward"
	"adit/internal/pacing"
	"adit/internal/proxyheader"
	"adit/tunnel"
)

// dialTimeout bounds the dial to an upstream.
const dialTimeout = 10 * time.Second

// An Upstream is what streams are relayed to, or a Listener or http.Handler that
// takes them.
type Upstream struct {
	network string // "tcp", "udp" or "unix"; empty for what is not dialled
	addr    string
	tls     *tls.Config  // nil for plain conns
	http2   bool         // it speaks HTTP/2 from the first byte
	proxy   int          // version of the PROXY protocol that its conns begin with; 0 is none
	ln      *Listener    // nil for all others
	handler http.Handler // nil for all others
	behind  *Upstream    // that the handler relays to; nil for all others

	exit *forward.Exit // nil for all others
}

// ParseUpstream understands a port ("3000", on localhost), "host:port",
// "tcp://host:port", "http://host[:port]", "https://host[:port]" and
// "unix:/path". https verifies the upstream's certificate. "h2c://host[:port]"
// and, with TLS, "h2://host[:port]" are upstreams of HTTP/2, such as gRPC, and
// "udp://host:port" takes datagrams.
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
		return newUpstream(s, ":"+s, "tcp")
	}
	return newUpstream(s, s, "tcp")
}

// ParseUDPUpstream is ParseUpstream for what takes datagrams: a port, "host:port"
// or "udp://host:port". localhost is 127.0.0.1 if there is that: nothing tells
// that nobody takes datagrams, so that another address could be tried.
func ParseUDPUpstream(s string) (*Upstream, error) {
	scheme, _, ok := strings.Cut(s, "://")
	switch {
	case ok && scheme != "udp":
		return nil, fmt.Errorf("upstream %q has the scheme %q: udp is allowed", s, scheme)
	case strings.HasPrefix(s, "unix:"):
		return nil, fmt.Errorf("upstream %q takes no datagrams: want a port, host:port or udp://host:port", s)
	case ok:
		return parseUpstreamURL(s)
	case !strings.Contains(s, ":"):
		return newUpstream(s, ":"+s, "udp")
	}
	return newUpstream(s, s, "udp")
}

// SocksUpstream returns an upstream whose streams say themselves where they go,
// with SOCKS5 or HTTP CONNECT, and go there through e. It is for TCP tunnels
// and services.
func SocksUpstream(e *forward.Exit) *Upstream { return &Upstream{addr: "socks", exit: e} }

func parseUpstreamURL(s string) (*Upstream, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("upstream %q is not a URL with a host", s)
	}
	if u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("upstream %s://%s has more than a host and a port", u.Scheme, u.Host)
	}
	def := map[string]string{"http": "80", "https": "443", "h2c": "80", "h2": "443", "tcp": "", "udp": ""}
	port, ok := def[u.Scheme]
	if !ok {
		return nil, fmt.Errorf("upstream %q has the scheme %q: http, https, h2c, h2, tcp, udp and unix are allowed", s, u.Scheme)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	network := "tcp"
	if u.Scheme == "udp" {
		network = "udp"
	}
	up, err := newUpstream(s, net.JoinHostPort(u.Hostname(), port), network)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "https":
		up.tls = &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}}
	case "h2":
		up.tls = &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"h2"}}
		up.http2 = true
	case "h2c":
		up.http2 = true
	}
	return up, nil
}

// HTTP2 reports whether u speaks HTTP/2 from the first byte.
func (u *Upstream) HTTP2() bool { return u.http2 }

// UDP reports whether u takes datagrams.
func (u *Upstream) UDP() bool { return u.network == "udp" }

// Socks reports whether u is one of SocksUpstream.
func (u *Upstream) Socks() bool { return u.exit != nil }

// WithProxyHeader returns an upstream like u that is told who each visitor is,
// by a header of the PROXY protocol, of version 1 or 2, at the start of each
// conn. Of HTTP, each conn is then for one visitor alone.
func (u *Upstream) WithProxyHeader(version int) (*Upstream, error) {
	if version != proxyheader.Text && version != proxyheader.Binary {
		return nil, fmt.Errorf("PROXY protocol version %d: 1 and 2 are allowed", version)
	}
	switch u.network {
	case "":
		return nil, fmt.Errorf("upstream %s is part of this program, which is told of visitors without the PROXY protocol", u)
	case "udp":
		return nil, fmt.Errorf("upstream %s takes datagrams, which have no start of a connection to say it at", u)
	}
	with := *u
	with.proxy = version
	return &with, nil
}

// newUpstream returns the upstream at addr; s is how the user wrote it.
func newUpstream(s, addr, network string) (*Upstream, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("upstream %q: want a port, host:port or a URL", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	switch _, isNumber := strconv.ParseUint(port, 10, 64); {
	case isNumber != nil && strings.Contains(s, ".") && port == s:
		return nil, fmt.Errorf("upstream %q has no port, of 1 to 65535: want host:port such as %s:80, or a URL", s, s)
	case isNumber != nil && port == s:
		return nil, fmt.Errorf("upstream %q: want a port from 1 to 65535, host:port or a URL", s)
	case err != nil || n == 0:
		return nil, fmt.Errorf("upstream %q has the port %q: 1 to 65535 are allowed", s, port)
	}
	if host == "" {
		host = "localhost"
	}
	return &Upstream{network: network, addr: net.JoinHostPort(host, port)}, nil
}

// String returns the upstream as ParseUpstream understands it, or the name of
// a Listener.
func (u *Upstream) String() string {
	switch {
	case u.network == "unix":
		return "unix:" + u.addr
	case u.network == "udp":
		return "udp://" + u.addr
	case u.tls != nil && u.http2:
		return "h2://" + u.addr
	case u.tls != nil:
		return "https://" + u.addr
	case u.http2:
		return "h2c://" + u.addr
	}
	return u.addr
}

// dial connects to the upstream on behalf of the visitor in info.
func (u *Upstream) dial(ctx context.Context, info tunnel.StreamInfo) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if u.network == "udp" {
		return u.dialUDP(ctx)
	}
	c, err := (&net.Dialer{Control: pacing.Control}).DialContext(ctx, u.network, u.addr)
	if err != nil {
		return nil, err
	}
	if err := u.introduce(c, info); err != nil {
		c.Close()
		return nil, err
	}
	if u.tls == nil {
		return c, nil
	}
	tc := tls.Client(c, u.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	if p := tc.ConnectionState().NegotiatedProtocol; u.http2 && p != "h2" {
		tc.Close()
		return nil, fmt.Errorf("the upstream does not speak HTTP/2 with TLS (it has chosen the protocol %q)", p)
	}
	return tc, nil
}

// dialUDP connects a socket to the upstream, which does not notice.
func (u *Upstream) dialUDP(ctx context.Context) (net.Conn, error) {
	if host, _, _ := net.SplitHostPort(u.addr); host == "localhost" {
		if c, err := new(net.Dialer).DialContext(ctx, "udp4", u.addr); err == nil {
			return c, nil
		}
	}
	return new(net.Dialer).DialContext(ctx, "udp", u.addr)
}

// introduce tells the upstream who the visitor is, if it is to know.
func (u *Upstream) introduce(c net.Conn, info tunnel.StreamInfo) error {
	if u.proxy == 0 {
		return nil
	}
	b, err := proxyheader.Format(u.proxy, info.Visitor, info.Local, info.Host)
	if err != nil {
		return err
	}
	_, err = c.Write(b) // into an empty socket: it does not wait
	return err
}

// InProcess reports whether u is part of this program, and so always answers:
// a Listener, a handler or socks.
func (u *Upstream) InProcess() bool { return u.network == "" && u.behind == nil }

// Check reports whether u answers now: it connects, with TLS if that is asked
// for, and hangs up. What is inside this program always answers. Of datagrams
// it cannot be known: the error wraps errors.ErrUnsupported. ctx bounds the
// attempt, besides a limit of 10 s.
func (u *Upstream) Check(ctx context.Context) error {
	if u.behind != nil {
		return u.behind.Check(ctx)
	}
	switch {
	case u.InProcess():
		return nil
	case u.UDP():
		return fmt.Errorf("upstream %s: whether somebody takes datagrams cannot be known: %w", u, errors.ErrUnsupported)
	}
	c, err := u.dial(ctx, tunnel.StreamInfo{})
	if err != nil {
		return err
	}
	return c.Close()
}
