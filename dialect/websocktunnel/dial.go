package websocktunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"adit/carrier"
	"adit/dialect/websocktunnel/wsmux"
	"adit/internal/wayout"
	"adit/internal/wsframe"
)

const (
	// dialTimeout bounds one attempt to connect, handshakes included.
	dialTimeout = 45 * time.Second

	maxAnswer   = 64 << 10 // bytes of the answer's head
	maxURL      = 2048     // bytes of the public address that a server tells
	userAgent   = "Go-http-client/1.1"
	headerToken = "Authorization"
)

// A StatusError is a server's answer other than 101 Switching Protocols.
type StatusError struct{ Code int }

func (e *StatusError) Error() string {
	return fmt.Sprintf("server answered %d %s", e.Code, http.StatusText(e.Code))
}

// A dialer makes sessions with one server.
type dialer struct {
	config  Config
	opts    *ListenOptions
	standby bool // only if nobody else is registered
}

// parseServer checks the address of a server: ws, wss, http or https.
func parseServer(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("server address is malformed: it looks like https://tunnel.example.com")
	}
	if u.User != nil {
		return nil, errors.New("server address holds a user name: it takes none")
	}
	switch u.Scheme {
	case "ws", "http":
		u.Scheme = "http"
	case "wss", "https":
		u.Scheme = "https"
	default:
		return nil, fmt.Errorf("server address has the scheme %q: ws, wss, http and https are allowed", u.Scheme)
	}
	return u, nil
}

// dial registers with the server. It returns the session, which the caller
// starts and closes, and the public address, which is empty if the server does
// not tell.
func (d *dialer) dial(ctx context.Context) (s *wsmux.Session, public string, err error) {
	u, err := parseServer(d.config.Server)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := d.connect(ctx, u)
	if err != nil {
		return nil, "", err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	conn := raw
	if u.Scheme == "https" {
		config := &tls.Config{}
		if d.opts.TLS != nil {
			config = d.opts.TLS.Clone()
		}
		if config.ServerName == "" {
			config.ServerName = u.Hostname()
		}
		config.NextProtos = nil
		secured := tls.Client(raw, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, "", fmt.Errorf("TLS handshake with %s: %w", u.Hostname(), err)
		}
		conn = secured
	}
	s, public, err = d.register(conn, u)
	if err == nil && !stop() {
		s.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		raw.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, "", err
	}
	return s, public, nil
}

// register runs the handshake on conn.
func (d *dialer) register(conn net.Conn, u *url.URL) (*wsmux.Session, string, error) {
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	ext := extension{window: defaultWindow, zeroMask: unseen(conn), standby: d.standby}
	if _, err := conn.Write(d.request(u, key, ext)); err != nil {
		return nil, "", fmt.Errorf("send registration: %w", err)
	}
	br := bufio.NewReader(&io.LimitedReader{R: conn, N: maxAnswer})
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodGet})
	if err != nil {
		return nil, "", fmt.Errorf("no answer to the registration: %w", plainError(err))
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, "", &StatusError{resp.StatusCode}
	}
	if !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") || resp.Header.Get("Sec-Websocket-Accept") != wsframe.Accept(key) {
		return nil, "", errors.New("the answer to the registration is no WebSocket's")
	}
	carrier.Tune(conn)
	p, _ := br.Peek(br.Buffered())
	opts := d.opts.Session
	opts.Buffered = bytes.Clone(p)
	opts.PeerWindow = max(opts.PeerWindow, d.config.PeerWindow)
	if got, ok := parseExtension(resp.Header.Get(headerExtension)); ok {
		opts.Extended, opts.PeerWindow = true, got.window
		opts.Window = ext.window
		opts.ZeroMask = ext.zeroMask && got.zeroMask
	}
	public := clean(resp.Header.Get(d.config.family().headerURL))
	if len(public) > maxURL {
		public = ""
	}
	return wsmux.New(conn, wsmux.Agent, opts), public, nil
}

// plainError is err without what the server may have put into it.
func plainError(err error) error {
	var ne net.Error
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the server closed the connection")
	case errors.As(err, &ne):
		return err
	}
	return errors.New("it is not HTTP")
}

// request returns the registration. Its header fields are those of the
// originals, in their order, and the extension behind them.
func (d *dialer) request(u *url.URL, key string, ext extension) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\n", u.RequestURI(), u.Host, userAgent)
	fmt.Fprintf(&b, "%s: Bearer %s\r\nConnection: Upgrade\r\n", headerToken, clean(strings.TrimSpace(d.config.Token)))
	fmt.Fprintf(&b, "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n", key)
	fmt.Fprintf(&b, "%s: %s\r\n", d.config.family().headerID, clean(d.config.ID))
	if !d.opts.Plain {
		fmt.Fprintf(&b, "%s: %s\r\n", headerExtension, ext)
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// unseen reports whether nothing between here and the other end of conn can
// read the bytes: they are encrypted, or stay on this machine.
func unseen(conn net.Conn) bool {
	if _, ok := conn.(*tls.Conn); ok {
		return true
	}
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// connect opens a conn to the server, through a proxy if there has to be one.
func (d *dialer) connect(ctx context.Context, u *url.URL) (net.Conn, error) {
	way := wayout.Dialer{Proxy: d.proxy(), DialContext: d.opts.DialContext, Timeout: dialTimeout}
	return way.Dial(ctx, u)
}

// proxy returns what chooses the proxy: by default that is the environment.
func (d *dialer) proxy() func(*url.URL) (*url.URL, error) {
	if d.opts.Proxy != nil {
		return d.opts.Proxy
	}
	return wayout.FromEnvironment(os.Getenv)
}
