// Package wayout opens connections to a server from a network that may let
// nobody out but through a proxy: an HTTP proxy with CONNECT (RFC 9110, section
// 9.3.6), over TLS or not, or one that speaks SOCKS5 (RFC 1928).
//
//	d := wayout.Dialer{Proxy: wayout.FromEnvironment(os.Getenv)}
//	conn, err := d.Dial(ctx, &url.URL{Scheme: "https", Host: "tunnel.example.com"})
package wayout

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"
)

// DefaultTimeout bounds a Dial if the Dialer says nothing else.
const DefaultTimeout = 30 * time.Second

// maxAnswer bounds the head of a proxy's answer, in bytes.
const maxAnswer = 16 << 10

// A Dialer opens connections to servers. The zero Dialer uses no proxy. Its
// methods are safe for concurrent use.
type Dialer struct {
	// Proxy returns the proxy for a server: its URL has the scheme http, https,
	// socks5 or socks5h, and may have a user and a password. If it or its result
	// is nil, there is none.
	Proxy func(server *url.URL) (*url.URL, error)

	// TLS configures TLS with a proxy whose scheme is https. It may be nil.
	TLS *tls.Config

	// DialContext opens the first connection, to the proxy or the server; nil
	// is a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Timeout bounds the whole of Dial, besides ctx; 0 means DefaultTimeout.
	Timeout time.Duration
}

// A ProxyError says what went wrong with a proxy. It names the proxy without
// its password.
type ProxyError struct {
	Proxy      string // scheme, host and port
	StatusCode int    // of its answer; 0 if there was none
	Err        error  // nil if StatusCode says it
}

func (e *ProxyError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("proxy %s: %v", e.Proxy, e.Err)
	}
	text := fmt.Sprintf("proxy %s: it answered %d %s", e.Proxy, e.StatusCode, http.StatusText(e.StatusCode))
	if e.StatusCode == http.StatusProxyAuthRequired {
		text += " (give user and password in the proxy's URL)"
	}
	return text
}

func (e *ProxyError) Unwrap() error { return e.Err }

// FromEnvironment returns a Dialer's Proxy that goes by HTTP_PROXY for servers
// without TLS, HTTPS_PROXY for those with it, NO_PROXY, and their lower-case
// forms. Servers on this machine have none.
func FromEnvironment(getenv func(string) string) func(*url.URL) (*url.URL, error) {
	either := func(name, lower string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return getenv(lower)
	}
	config := httpproxy.Config{
		HTTPProxy:  either("HTTP_PROXY", "http_proxy"),
		HTTPSProxy: either("HTTPS_PROXY", "https_proxy"),
		NoProxy:    either("NO_PROXY", "no_proxy"),
	}
	return config.ProxyFunc()
}

// Dial opens a connection to server, whose scheme is http or https, which
// decides on its default port and its proxy; TLS with the server is the
// caller's. The error is a *ProxyError if a proxy is to blame, or the
// network's. The caller closes the connection.
func (d *Dialer) Dial(ctx context.Context, server *url.URL) (net.Conn, error) {
	timeout := d.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	addr := addrOf(server, map[string]string{"http": "80", "https": "443"})
	var via *url.URL
	if d.Proxy != nil {
		var err error
		if via, err = d.Proxy(server); err != nil {
			return nil, errors.New("the proxy's URL is malformed") // it may hold a password
		}
	}
	if via == nil {
		return d.dial(ctx, addr)
	}
	name := &url.URL{Scheme: via.Scheme, Host: via.Host}
	conn, err := d.dialVia(ctx, via, addr)
	if err != nil {
		if pe := (*ProxyError)(nil); errors.As(err, &pe) {
			pe.Proxy = name.String()
			return nil, pe
		}
		return nil, &ProxyError{Proxy: name.String(), Err: err}
	}
	return conn, nil
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
	var nd net.Dialer
	return nd.DialContext(ctx, "tcp", addr)
}

func (d *Dialer) dialVia(ctx context.Context, via *url.URL, addr string) (net.Conn, error) {
	at := addrOf(via, map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"})
	switch via.Scheme {
	case "socks5", "socks5h":
		var auth *proxy.Auth
		if via.User != nil {
			password, _ := via.User.Password()
			auth = &proxy.Auth{User: via.User.Username(), Password: password}
		}
		s, err := proxy.SOCKS5("tcp", at, auth, forward(d.dial))
		if err != nil {
			return nil, err
		}
		return s.(proxy.ContextDialer).DialContext(ctx, "tcp", addr)
	case "http", "https":
	default:
		return nil, fmt.Errorf("scheme %q: http, https, socks5 and socks5h are allowed", via.Scheme)
	}
	conn, err := d.dial(ctx, at)
	if err != nil {
		return nil, err
	}
	// A deadline and not ctx alone: nothing below knows of ctx.
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	through, err := d.connect(ctx, conn, via, addr)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	through.SetDeadline(time.Time{})
	return through, nil
}

// connect asks an HTTP proxy for a connection to addr.
func (d *Dialer) connect(ctx context.Context, conn net.Conn, via *url.URL, addr string) (net.Conn, error) {
	if via.Scheme == "https" {
		config := &tls.Config{}
		if d.TLS != nil {
			config = d.TLS.Clone()
		}
		if config.ServerName == "" {
			config.ServerName = via.Hostname()
		}
		t := tls.Client(conn, config)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = t
	}
	request := "CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: Go-http-client/1.1\r\n"
	if via.User != nil {
		password, _ := via.User.Password()
		token := base64.StdEncoding.EncodeToString([]byte(via.User.Username() + ":" + password))
		request += "Proxy-Authorization: Basic " + token + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return nil, err
	}
	r := bufio.NewReader(io.LimitReader(conn, maxAnswer))
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &ProxyError{StatusCode: resp.StatusCode}
	}
	if n := r.Buffered(); n > 0 { // the server speaks first
		early, _ := r.Peek(n)
		return &earlyConn{Conn: conn, early: append([]byte(nil), early...)}, nil
	}
	return conn, nil
}

// An earlyConn is a conn of which some bytes have been read already.
type earlyConn struct {
	net.Conn
	early []byte
}

func (c *earlyConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// CloseWrite ends the writing side, if the conn below can.
func (c *earlyConn) CloseWrite() error {
	if hc, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return c.Conn.Close()
}

// forward lets package proxy dial.
type forward func(ctx context.Context, addr string) (net.Conn, error)

func (f forward) Dial(_, addr string) (net.Conn, error) { return f(context.Background(), addr) }

func (f forward) DialContext(ctx context.Context, _, addr string) (net.Conn, error) {
	return f(ctx, addr)
}
