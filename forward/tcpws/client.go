package tcpws

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"adit/internal/wayout"
	"adit/internal/wsframe"
)

// ClientOptions configures a Client. URL is required.
type ClientOptions struct {
	// URL is dialled for each caller: ws or wss, for which http and https stand
	// too. As with the original it is not looked at before there is a caller.
	URL string

	// Proxy is the proxy for a server, as in wayout.Dialer; nil is none.
	Proxy func(*url.URL) (*url.URL, error)

	// TLS configures wss; nil verifies against the system's certificates.
	TLS *tls.Config

	// MaxLinks bounds the callers at a time; 0 means 65536. One more is reset.
	MaxLinks int

	// Log receives the lines that the original writes. If nil, they are lost.
	Log *log.Logger
}

// A Client listens for callers. Its methods are safe for concurrent use.
type Client struct {
	opts  ClientOptions
	links links
}

// NewClient returns a Client. The caller closes it.
func NewClient(opts ClientOptions) *Client {
	if opts.MaxLinks <= 0 {
		opts.MaxLinks = 1 << 16
	}
	if opts.Log == nil {
		opts.Log = log.New(io.Discard, "", 0)
	}
	return &Client{opts: opts, links: newLinks(opts.MaxLinks)}
}

// Serve takes callers from l until ctx ends or l fails, and closes l and all
// links.
func (c *Client) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer c.Close()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var delay time.Duration
	for {
		caller, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if isTemporary(err) {
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			c.opts.Log.Printf("Accept error: %v; retrying in %v", err, delay)
			select {
			case <-time.After(delay):
			case <-ctx.Done():
			}
			continue
		} else if err != nil {
			return err
		}
		delay = 0
		done, ok := c.links.add()
		if !ok {
			abort(caller)
			continue
		}
		go func() {
			defer done()
			c.serve(ctx, caller)
		}()
	}
}

// isTemporary reports whether Accept may work again: out of descriptors, most
// likely, which net/http waits for too.
func isTemporary(err error) bool {
	var te interface{ Temporary() bool }
	return errors.As(err, &te) && te.Temporary()
}

// Close ends all links and waits for them.
func (c *Client) Close() error { return c.links.close() }

// serve serves one caller.
func (c *Client) serve(ctx context.Context, caller net.Conn) {
	peer := caller.RemoteAddr()
	conn, early, has, err := c.dial(ctx, peer)
	if err != nil {
		c.opts.Log.Printf("%s - Error while dialing %s: %v", peer, withoutUser(c.opts.URL), err)
		refuse(caller)
		return
	}
	l := newLink(conn, caller)
	l.client, l.early, l.features = true, early, has
	release := c.links.hold(l)
	defer release()
	logEnd(c.opts.Log, peer.String(), l.run())
}

// refuse closes a caller that gets no connection: with a reset, so that it
// cannot take that for an answer. A reset before the caller has noticed that it
// is connected would be a failure to connect, which callers of the original
// never see: so it waits for the caller's first bytes, or a little.
func refuse(caller net.Conn) {
	caller.SetReadDeadline(time.Now().Add(noticeTime))
	caller.Read(make([]byte, 1))
	abort(caller)
}

const maxRedirects = 10

// dial opens a WebSocket, through redirects.
func (c *Client) dial(ctx context.Context, peer net.Addr) (net.Conn, []byte, features, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	u, err := parseURL(c.opts.URL)
	if err != nil {
		return nil, nil, features{}, err
	}
	for range maxRedirects {
		c.opts.Log.Printf("%s - Connecting to %s", peer, shown(u))
		conn, resp, early, err := c.handshake(ctx, u)
		if err != nil {
			return nil, nil, features{}, err
		}
		switch resp.StatusCode {
		case http.StatusSwitchingProtocols:
			return conn, early, parseFeatures(resp.Header.Values(headerFeatures)).and(features{ends: true, zeroMask: true}), nil
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			conn.Close()
			return nil, nil, features{}, fmt.Errorf("the server answered %s", statusOf(resp))
		}
		conn.Close()
		to, err := u.Parse(resp.Header.Get("Location"))
		if err != nil || resp.Header.Get("Location") == "" {
			return nil, nil, features{}, fmt.Errorf("the server answered %s without a usable Location", statusOf(resp))
		}
		if u, err = parseURL(to.String()); err != nil {
			return nil, nil, features{}, fmt.Errorf("the server redirects: %w", err)
		}
		c.opts.Log.Printf("%s - Redirect to %s", peer, shown(u))
	}
	return nil, nil, features{}, fmt.Errorf("more than %d redirects", maxRedirects)
}

// statusOf returns an answer's status without the words of whoever has sent it.
func statusOf(resp *http.Response) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
}

// parseURL returns a URL with the scheme http or https.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("malformed ws or wss URL")
	}
	switch strings.ToLower(u.Scheme) {
	case "ws", "http":
		u.Scheme = "http"
	case "wss", "https":
		u.Scheme = "https"
	default:
		return nil, errors.New("malformed ws or wss URL")
	}
	if u.User != nil || u.Host == "" {
		return nil, errors.New("malformed ws or wss URL")
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

// withoutUser returns a URL, perhaps a malformed one, without what may be a
// password.
func withoutUser(s string) string {
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		scheme, _, _ := strings.Cut(s, "//")
		if len(scheme) > at {
			scheme = ""
		}
		return scheme + "//xxxxx" + s[at:]
	}
	return s
}

// shown returns a URL of parseURL as the original logs it.
func shown(u *url.URL) string { return "ws" + strings.TrimPrefix(u.String(), "http") }

// hostField returns the field Host for a server, as package net/http writes it:
// in ASCII, and without the zone, which says nothing to others.
func hostField(u *url.URL) string {
	host, err := httpguts.PunycodeHostPort(u.Host)
	if err != nil {
		host = u.Host
	}
	if from, to := strings.IndexByte(host, '%'), strings.LastIndexByte(host, ']'); 0 <= from && from < to {
		host = host[:from] + host[to:]
	}
	return host
}

// handshake sends one request and returns its answer.
func (c *Client) handshake(ctx context.Context, u *url.URL) (conn net.Conn, resp *http.Response, early []byte, err error) {
	out := wayout.Dialer{Proxy: c.opts.Proxy, TLS: c.opts.TLS, Timeout: handshakeTime, Eager: true} // as the original
	if conn, err = out.Dial(ctx, u); err != nil {
		return nil, nil, nil, err
	}
	raw := conn
	defer func() {
		if err != nil {
			raw.Close()
		}
	}()
	deadline, _ := ctx.Deadline()
	raw.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if u.Scheme == "https" {
		config := &tls.Config{}
		if c.opts.TLS != nil {
			config = c.opts.TLS.Clone()
		}
		if config.ServerName == "" {
			config.ServerName = u.Hostname()
		}
		config.NextProtos = []string{"http/1.1"}
		t := tls.Client(conn, config)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, nil, nil, err
		}
		conn = t
	}
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	request := "GET " + u.RequestURI() + " HTTP/1.1\r\nHost: " + hostField(u) + "\r\nUser-Agent: Go-http-client/1.1\r\n" +
		headerFeatures + ": " + features{ends: true, zeroMask: true}.String() + "\r\n" +
		"Connection: Upgrade\r\nSec-WebSocket-Key: " + key + "\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, nil, nil, err
	}
	const maxHead = 64 << 10
	r := bufio.NewReader(io.LimitReader(conn, maxHead))
	resp, err = http.ReadResponse(r, &http.Request{Method: http.MethodGet})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read the answer: %w", unexpected(err))
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return conn, resp, nil, nil
	}
	if !hasToken(resp.Header["Upgrade"], "websocket") || !hasToken(resp.Header["Connection"], "upgrade") ||
		resp.Header.Get("Sec-Websocket-Accept") != wsframe.Accept(key) {
		return nil, nil, nil, errors.New("the answer's upgrade is malformed")
	}
	if n := r.Buffered(); n > 0 {
		early, _ = r.Peek(n)
		early = append([]byte(nil), early...)
	}
	if !stop() {
		return nil, nil, nil, ctx.Err()
	}
	raw.SetDeadline(time.Time{})
	return conn, resp, early, nil
}
