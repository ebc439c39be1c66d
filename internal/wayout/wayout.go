// Package wayout opens connections to a server from a network that may let
// nobody out but through a proxy: an HTTP proxy with CONNECT (RFC 9110, section
// 9.3.6), over TLS or not, or one that speaks SOCKS5 (RFC 1928).
//
//	d := wayout.Dialer{Proxy: wayout.Environment(os.Getenv)}
//	conn, err := d.Dial(ctx, &url.URL{Scheme: "https", Host: "tunnel.example.com"})
//
// Everything of adit that dials a server dials it with a Dialer.
package wayout

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"adit/internal/pacing"
	"adit/internal/replay"
)

// DefaultTimeout bounds a Dial if the Dialer says nothing else.
const DefaultTimeout = 30 * time.Second

// A Dialer opens connections to servers. The zero Dialer uses no proxy. Its
// fields must not be changed while it is used; its methods are safe for
// concurrent use.
type Dialer struct {
	// Proxy returns the proxy for a server: its URL has the scheme http, https,
	// socks5 or socks5h, and may have a user and a password. If it or its result
	// is nil, there is none. It is called for each connection, with a server
	// whose scheme may be ws or wss as well as http or https.
	Proxy func(server *url.URL) (*url.URL, error)

	// TLS configures TLS with a proxy whose scheme is https. It may be nil.
	TLS *tls.Config

	// DialContext opens the first connection, to the proxy or the server; nil
	// is a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Schemes are the ways to log in to an HTTP proxy that may be used; nil
	// are all of Schemes.
	Schemes []string

	// Eager shows an HTTP proxy the user of its URL as Basic with the first
	// request, without having been asked for it, as net/http does.
	Eager bool

	// Negotiate returns a token that shows an HTTP proxy on host, which has
	// asked for it, who asks: with a ticket of Kerberos. If it is nil, or
	// fails, Negotiate is left out.
	Negotiate func(ctx context.Context, host string) ([]byte, error)

	// Timeout bounds the whole of Dial, besides ctx; 0 means DefaultTimeout.
	Timeout time.Duration
}

// Via returns the proxy through which Dial would reach server, without its user
// and password; nil if there is none.
func (d *Dialer) Via(server *url.URL) (*url.URL, error) {
	via, err := d.via(server)
	if via == nil || err != nil {
		return nil, err
	}
	return &url.URL{Scheme: via.Scheme, Host: via.Host}, nil
}

func (d *Dialer) via(server *url.URL) (*url.URL, error) {
	if d.Proxy == nil {
		return nil, nil
	}
	via, err := d.Proxy(server)
	if err != nil {
		if _, ok := errors.AsType[*url.Error](err); ok {
			err = errors.New("the proxy's URL is malformed") // it may hold a password
		}
		return nil, &Error{Kind: Setting, Err: err}
	}
	return via, nil
}

// Dial opens a connection to server, whose scheme is http, https, ws or wss,
// which decides on its default port and its proxy; TLS with the server is the
// caller's: see Secure. The error is an *Error if a proxy is to blame, or the
// network's. The caller closes the connection, which is a *Conn if it leads
// through a proxy.
func (d *Dialer) Dial(ctx context.Context, server *url.URL) (net.Conn, error) {
	timeout := d.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	addr := addrOf(server, map[string]string{"http": "80", "https": "443", "ws": "80", "wss": "443"})
	via, err := d.via(server)
	if err != nil {
		return nil, err
	}
	if via == nil {
		return d.dial(ctx, addr)
	}
	conn, err := d.dialVia(ctx, via, addr)
	if err == nil {
		return conn, nil
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Kind: Unreachable, Err: err}
	}
	if ctx.Err() != nil {
		e.Err = context.Cause(ctx)
	}
	e.Proxy = (&url.URL{Scheme: via.Scheme, Host: via.Host}).String()
	e.Server = addr
	return nil, e
}

func addrOf(u *url.URL, ports map[string]string) string {
	port := u.Port()
	if port == "" {
		port = ports[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (d *Dialer) dial(ctx context.Context, addr string) (net.Conn, error) {
	if d.DialContext != nil {
		return d.DialContext(ctx, "tcp", addr)
	}
	nd := net.Dialer{Control: pacing.Control}
	return nd.DialContext(ctx, "tcp", addr)
}

// ParseProxy parses the URL of a proxy; without a scheme it is of an HTTP proxy.
// The error repeats nothing of the URL beyond its scheme.
func ParseProxy(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("malformed: want http://host:port, or https, socks5 or socks5h")
	}
	return u, checkProxy(u)
}

func checkProxy(u *url.URL) error {
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
	default:
		return fmt.Errorf("scheme %q: http, https, socks5 and socks5h are allowed", u.Scheme)
	}
	switch {
	case u.Hostname() == "":
		return errors.New("the host is missing")
	case strings.TrimSuffix(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return errors.New("it has more than a host and a port")
	}
	return nil
}

func (d *Dialer) dialVia(ctx context.Context, via *url.URL, addr string) (net.Conn, error) {
	if err := checkProxy(via); err != nil {
		return nil, &Error{Kind: Setting, Err: err}
	}
	if strings.HasPrefix(via.Scheme, "socks5") {
		return d.dialSOCKS(ctx, via, addr)
	}
	return d.dialHTTP(ctx, via, addr)
}

// open opens a connection to the proxy, with TLS if the URL says so. Nothing
// below it waits longer than ctx until settle is called, which reports false if
// ctx ended before.
func (d *Dialer) open(ctx context.Context, via *url.URL) (conn net.Conn, settle func() bool, err error) {
	at := addrOf(via, map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"})
	raw, err := d.dial(ctx, at)
	if err != nil {
		return nil, nil, err
	}
	// A deadline and not ctx alone: what reads and writes does not know of ctx.
	deadline, _ := ctx.Deadline()
	raw.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	settle = func() bool {
		if !stop() {
			return false
		}
		raw.SetDeadline(time.Time{})
		return true
	}
	if via.Scheme != "https" {
		return raw, settle, nil
	}
	config := &tls.Config{}
	if d.TLS != nil {
		config = d.TLS.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = via.Hostname()
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	secured, err := Secure(ctx, raw, config)
	if err != nil {
		settle()
		raw.Close()
		if _, ok := errors.AsType[*Error](err); !ok {
			err = &Error{Kind: NoProxy, Err: fmt.Errorf("TLS: %w", err)}
		}
		return nil, nil, err
	}
	return secured, settle, nil
}

// A Conn is a connection through a proxy. It hides the socket, which is that to
// the proxy, so that nobody takes the proxy for the server; NetConn leads to it.
type Conn struct {
	*replay.Conn
}
