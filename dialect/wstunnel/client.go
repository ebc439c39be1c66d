package wstunnel

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"adit/carrier"
	"adit/internal/backoff"
	"adit/internal/wayout"
	"adit/internal/wsframe"
	"adit/session"
)

// ClientOptions configures a Client. Tunnel, Token, and Server or Regexp are
// required.
type ClientOptions struct {
	// Tunnel is the server: ws or wss, with a base path at most. A user in it
	// is for whoever stands before the server: it goes out as Basic
	// authentication, beside a password in X-Tunnel-Authorization.
	Tunnel string

	// Token names the tunnel. It is a secret of at least 16 bytes.
	Token string

	// Password is sent for a token that has one at the server.
	Password string

	// Server is the default local server, http or https, with a base path at
	// most.
	Server string

	// Regexp is what a caller's X-Host has to match as a whole; nil refuses all.
	Regexp *regexp.Regexp

	// PassRedirects hands redirects to the caller, instead of following those
	// that stay with the local server or match Regexp.
	PassRedirects bool

	// Insecure does not verify the certificates of local servers.
	Insecure bool

	// RootCAs verify the server and local ones; nil is the system's.
	RootCAs *x509.CertPool

	// Timeout is how long the server may be silent; 0 means 30 s.
	Timeout time.Duration

	// Proxy is the way to the server, as in wayout.Dialer; nil is none.
	Proxy func(*url.URL) (*url.URL, error)

	// DialContext opens the first connection; nil is a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// MaxBody bounds an answer that has to be held as a whole, in bytes, as
	// those to originals have; 0 means 100 MiB.
	MaxBody int64

	// MaxConcurrent bounds the requests at local servers at a time; 0 means
	// 4096. Others wait.
	MaxConcurrent int

	// Messages has the client speak the original's format even with a server
	// that is adit.
	Messages bool

	// OnAlive, if not nil, is called at each sign of life of the server.
	OnAlive func()

	// Log receives the events. If nil, they are lost.
	Log *slog.Logger
}

// A Client keeps a connection to a server and carries its requests to local
// ones.
type Client struct {
	opts  ClientOptions
	url   *url.URL
	local *local
	rooms rooms
}

// ErrToken is that of a token that no server takes.
var ErrToken = fmt.Errorf("token is shorter than the %d bytes that servers ask for", minToken)

// NewClient returns a Client, or says which field is wrong.
func NewClient(opts ClientOptions) (*Client, error) {
	switch {
	case !strings.HasPrefix(opts.Tunnel, "ws://") && !strings.HasPrefix(opts.Tunnel, "wss://"):
		return nil, errors.New("tunnel must begin with ws:// or wss://")
	case len(opts.Token) < minToken:
		return nil, ErrToken
	case opts.Server == "" && opts.Regexp == nil:
		return nil, errors.New("server or regexp is required")
	case opts.Server != "" && !strings.HasPrefix(opts.Server, "http://") && !strings.HasPrefix(opts.Server, "https://"):
		return nil, errors.New("server must begin with http:// or https://")
	case strings.ContainsAny(opts.Token+opts.Password, "\r\n"):
		return nil, errors.New("token must not contain line ends")
	}
	u, err := url.Parse("http" + strings.TrimPrefix(opts.Tunnel, "ws"))
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("tunnel must be like wss://host:port/base, without a query")
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/_tunnel"
	if opts.Timeout <= 0 {
		opts.Timeout = 30 * time.Second
	}
	if opts.MaxBody <= 0 {
		opts.MaxBody = MaxMessage
	}
	if opts.MaxConcurrent <= 0 {
		opts.MaxConcurrent = 4096
	}
	if opts.OnAlive == nil {
		opts.OnAlive = func() {}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{
		opts:  opts,
		url:   u,
		local: newLocal(&opts),
		rooms: rooms{bytes: &budget{limit: 1 << 30}, memory: &budget{limit: 128 << 20}},
	}, nil
}

const (
	dialTime = 30 * time.Second

	// The original waits ten seconds between dials.
	redialMin = 200 * time.Millisecond
	redialMax = 10 * time.Second

	// steady is how long a connection has to live for its end not to count as
	// another failure.
	steady = 5 * time.Second
)

// Run stays connected until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	defer c.local.close()
	b := backoff.Backoff{Min: redialMin, Max: redialMax}
	for ctx.Err() == nil {
		began := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > steady {
			b.Reset()
		}
		c.opts.Log.Info("WS   closed", "err", err)
		b.Wait(ctx)
	}
	return nil
}

// once dials, and serves the connection until it ends.
func (c *Client) once(ctx context.Context) error {
	conn, br, native, err := c.dial(ctx, !c.opts.Messages)
	if err != nil {
		c.opts.Log.Error("Error opening connection", "err", err)
		return err
	}
	c.opts.Log.Info("WS   ready", "server", c.url.Host, "native", native)
	if native {
		return c.serveSession(ctx, conn, br)
	}
	return c.serveMessages(ctx, conn, br)
}

// dial opens a WebSocket. native reports whether the server is adit, and that
// it was asked for a session.
func (c *Client) dial(ctx context.Context, offer bool) (conn net.Conn, br *bufio.Reader, native bool, err error) {
	c.opts.Log.Info("WS   Opening", "url", c.url.Scheme+"://"+c.url.Host+c.url.Path)
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	out := wayout.Dialer{Proxy: c.opts.Proxy, DialContext: c.opts.DialContext, Timeout: dialTime, Eager: true}
	if conn, err = out.Dial(ctx, c.url); err != nil {
		return nil, nil, false, err
	}
	raw := conn
	defer func() {
		if err != nil {
			raw.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	carrier.Tune(raw)
	if c.url.Scheme == "https" {
		t := tls.Client(conn, &tls.Config{ServerName: c.url.Hostname(), RootCAs: c.opts.RootCAs, NextProtos: []string{"http/1.1"}})
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, nil, false, err
		}
		conn = t
	}
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	if _, err := io.WriteString(conn, c.handshake(key, offer)); err != nil {
		return nil, nil, false, err
	}
	br = bufio.NewReaderSize(conn, 16<<10)
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodGet})
	if err != nil {
		return nil, nil, false, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 80))
		return nil, nil, false, fmt.Errorf("the server answered %s: %s", resp.Status, c.clean(text))
	}
	if resp.Header.Get("Sec-Websocket-Accept") != wsframe.Accept(key) {
		return nil, nil, false, errors.New("the answer's Sec-WebSocket-Accept is wrong")
	}
	if !stop() {
		return nil, nil, false, ctx.Err()
	}
	return conn, br, offer && resp.Header.Get(headerSession) == sessionVersion, nil
}

// clean returns a server's text without the token, which it may repeat.
func (c *Client) clean(text []byte) string {
	return strings.TrimSpace(strings.ReplaceAll(string(text), c.opts.Token, "[redacted]"))
}

// handshake returns the request of the original, and behind that what is ours.
func (c *Client) handshake(key string, offer bool) string {
	var b strings.Builder
	b.WriteString("GET " + c.url.RequestURI() + " HTTP/1.1\r\nHost: " + c.url.Host + "\r\nUser-Agent: " + defaultAgent + "\r\n")
	field := "Authorization"
	if c.opts.Password != "" {
		writeBasic(&b, field, c.opts.Token, c.opts.Password)
		field = "X-Tunnel-Authorization"
	}
	if u := c.url.User; u != nil {
		password, _ := u.Password()
		writeBasic(&b, field, u.Username(), password)
	}
	b.WriteString("Connection: Upgrade\r\nOrigin: " + c.opts.Token + "\r\nSec-WebSocket-Key: " + key +
		"\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n")
	if offer {
		b.WriteString(headerSession + ": " + sessionVersion + "\r\n")
	}
	b.WriteString("\r\n")
	return b.String()
}

func writeBasic(b *strings.Builder, field, user, password string) {
	b.WriteString(field + ": Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)) + "\r\n")
}

// requestID names a request in logs.
func requestID(id uint16) string { return hex.EncodeToString([]byte{byte(id >> 8), byte(id)}) }

// sessionOptions are those of the session with a server of our own.
func (c *Client) sessionOptions() *session.Options {
	return &session.Options{
		Ping:         c.opts.Timeout / 3,
		Dead:         c.opts.Timeout,
		ResumeWindow: resumeWindow,
		MaxStreams:   1 << 14,
	}
}
