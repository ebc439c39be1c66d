package adit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/wayout"
	"adit/policy"
	"adit/tunnel"
)

// An Option changes how Listen and Forward work. Options may be given in any
// order; of two for the same thing the last counts. What is wrong with one is
// said by Listen or Forward, for all of them at once.
type Option func(*options)

// Options returns an option that stands for all of opts, in their order.
func Options(opts ...Option) Option {
	return func(o *options) { o.add(opts) }
}

// options is what the options amount to.
type options struct {
	server    string
	token     func(context.Context) (string, error)
	id        string
	instance  string
	kind      dialect.Kind
	chosen    []string // the options that chose kind
	port      int
	hostnames []string
	http2     bool
	backlog   int
	conns     int
	listening bool           // for Listen
	policy    *policy.Policy // nil lets everybody in
	encoded   []byte         // policy, as it is sent
	tls       *tls.Config
	dial      func(ctx context.Context, network, addr string) (net.Conn, error)
	proxy     string
	ticket    func(ctx context.Context, host string) ([]byte, error)
	out       *wayout.Dialer // what proxy amounts to
	host      string
	carrier   native.Carrier
	header    http.Header
	log       *slog.Logger
	events    func(Event)
}

// Variables of the environment that stand for options that are not given.
const (
	envServer = "ADIT_SERVER"
	envToken  = "ADIT_TOKEN"
)

// WithServer says where the server is: ws, wss, http or https, a host, and a
// port and path if need be, such as "wss://tunnel.example.com". Without it the
// environment variable ADIT_SERVER counts. Over ws and http the token, and all
// that visitors send, can be read on the way.
func WithServer(url string) Option {
	return func(o *options) { o.server = url }
}

// WithToken gives the credential: a token made with "adit token", or the
// server's secret. Without it, and without WithTokenFunc, the environment
// variable ADIT_TOKEN counts. It is sent to the server and appears nowhere else.
func WithToken(token string) Option {
	return WithTokenFunc(func(context.Context) (string, error) { return token, nil })
}

// WithTokenFunc lets f give the credential, each time that the program connects
// to the server, and in good time before a JWT expires, for the session that
// lives on it. ctx ends after 10 s, and when nobody needs the credential any
// more. f may be called by several goroutines at once. If it fails before the
// first connection Listen and Forward fail too; later it is asked again after a
// pause.
func WithTokenFunc(f func(ctx context.Context) (string, error)) Option {
	return func(o *options) { o.token = f }
}

// WithID gives the name to register under, which is required: 1 to 63 of a-z,
// 0-9 and '-'. It is part of the public address. Programs whose credential has
// the same subject can use an ID together, and share its visitors.
func WithID(id string) Option {
	return func(o *options) { o.id = id }
}

// WithInstance gives the program a name among those that use the same ID, of at
// most 128 bytes. One that comes with the ID and the instance of another takes
// over from it: the other ends with ErrSuperseded. Without the option each
// Listener and Tunnel is an instance of its own, and takes over from nobody.
func WithInstance(name string) Option {
	return func(o *options) { o.instance = name }
}

// WithTCP asks for a public TCP port instead of an HTTP address. With port 0 the
// server chooses one, and the same one the next time if it can.
func WithTCP(port int) Option {
	return func(o *options) {
		o.choose(dialect.TCP, "WithTCP")
		o.port = port
	}
}

// WithTLS asks for the TLS connections that visitors make to these hostnames,
// and to the hostname of the ID, instead of an HTTP address. The server passes
// them on as they are; the program has the certificates:
//
//	tls.NewListener(l, &tls.Config{GetCertificate: ...})
func WithTLS(hostnames ...string) Option {
	return func(o *options) {
		o.choose(dialect.TLS, "WithTLS")
		o.hostnames = append(o.hostnames, hostnames...)
	}
}

// WithHostname asks for public hostnames beside that of the ID. The credential
// must allow them, and their DNS must lead to the server.
func WithHostname(hostnames ...string) Option {
	return func(o *options) { o.hostnames = append(o.hostnames, hostnames...) }
}

// WithHTTP2 says that what answers visitors speaks HTTP/2 from the first byte,
// without TLS: a gRPC server, for instance. Otherwise the server speaks HTTP/1.1
// with it, whatever visitors speak.
func WithHTTP2() Option {
	return func(o *options) { o.http2 = true }
}

// WithPolicy lets the server decide, by these rules, which visitors may enter.
// A server that does not know one of them refuses the name. It holds hashes and
// keys, which the server gets to know.
func WithPolicy(p policy.Policy) Option {
	return func(o *options) { o.policy = &p }
}

// WithBacklog bounds how many visitors wait for Accept; 0 means 1024. One more
// is turned away, of which those of HTTP see a 503. For Listen.
func WithBacklog(n int) Option {
	return func(o *options) { o.backlog = n }
}

// WithConnections keeps n connections to the server at a time, so that one that
// loses packets or is stuck does not hold up everything; at most 16, and 0 means
// 1. Visitors see one program: they go to the connection with the fewest of them.
func WithConnections(n int) Option {
	return func(o *options) { o.conns = n }
}

// WithTLSConfig configures TLS with the server, for servers whose certificate
// is not signed by an authority of the system. With a certificate in it, which
// the server has to trust, no token is needed. The config is not changed, and
// must not be by the caller.
func WithTLSConfig(config *tls.Config) Option {
	return func(o *options) { o.tls = config }
}

// WithDialContext sets the way out to the server. addr is the host and port of
// its URL, or of the proxy if there is WithProxy.
func WithDialContext(dial func(ctx context.Context, network, addr string) (net.Conn, error)) Option {
	return func(o *options) { o.dial = dial }
}

// WithProxy sets the proxy through which the server is reached: its URL with the
// scheme http, https, socks5 or socks5h, and a user and a password if it wants
// them. "direct" stands for none. Without it, and without WithDialContext, the
// environment variables HTTPS_PROXY (or HTTP_PROXY for ws), ALL_PROXY and
// NO_PROXY count, as for curl. The password is shown to the proxy if that asks
// for it, and appears nowhere else.
func WithProxy(url string) Option {
	return func(o *options) { o.proxy = url }
}

// WithProxyTicket lets f show an HTTP proxy that asks for Negotiate (RFC 4559) who
// asks, by a token of SPNEGO for HTTP on that host: with a ticket of Kerberos, say.
// If f fails, the password in WithProxy is left, if there is one. ctx ends with
// the attempt to connect.
func WithProxyTicket(f func(ctx context.Context, host string) ([]byte, error)) Option {
	return func(o *options) { o.ticket = f }
}

// WithCarrier sets how the network is crossed: "websocket", "stream", "poll" or
// "quic", as for --carrier. Without it, or with "auto", the best of the first
// three is used that works, and a better one later if there is one.
func WithCarrier(name string) Option {
	return func(o *options) { o.carrier = native.Carrier(name) }
}

// WithServerHost sets the Host that requests to the server have, for what stands
// before it; without it that is the host of the URL, to which the program connects
// in any case. The name in TLS is ServerName in WithTLSConfig.
func WithServerHost(host string) Option {
	return func(o *options) { o.host = host }
}

// WithServerHeader sends these header fields to the server, for what stands
// before it.
func WithServerHeader(h http.Header) Option {
	return func(o *options) { o.header = h.Clone() }
}

// WithLogger lets adit log to l what happens to the connection. Without it
// nothing is logged.
func WithLogger(l *slog.Logger) Option {
	return func(o *options) { o.log = l }
}

// WithEvents lets adit tell f of each change, one at a time and in order, from
// a goroutine of its own. If f is slow, all but the latest 64 events that wait
// for it are left out. The last event is StateClosed, and Done waits until it
// has been told; so f may call Close, but not wait for Done.
func WithEvents(f func(Event)) Option {
	return func(o *options) { o.events = f }
}

func (o *options) add(opts []Option) {
	for _, f := range opts {
		if f != nil {
			f(o)
		}
	}
}

func (o *options) choose(kind dialect.Kind, option string) {
	o.kind = kind
	if !slices.Contains(o.chosen, option) {
		o.chosen = append(o.chosen, option)
	}
}

// apply returns what opts amount to, or all that is wrong with them.
func apply(opts []Option) (*options, error) {
	o := &options{kind: dialect.HTTP}
	o.add(opts)
	if o.server == "" {
		o.server = os.Getenv(envServer)
	}
	if o.token == nil {
		if t := os.Getenv(envToken); t != "" {
			WithToken(t)(o)
		}
	}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	for i, h := range o.hostnames {
		o.hostnames[i] = strings.ToLower(strings.TrimSuffix(h, "."))
	}
	return o, o.check()
}

// maxInstance is what a server takes.
const maxInstance = 128

func (o *options) check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("adit: "+format, args...))
	}
	if o.server == "" {
		bad("no server: give WithServer, or set %s", envServer)
	} else if err := checkServer(o.server); err != nil {
		bad("WithServer: %w", err)
	}
	if o.token == nil && !o.showsCertificate() {
		bad("no credential: give WithToken or WithTokenFunc, or set %s", envToken)
	}
	if o.id == "" {
		bad("no ID: give WithID")
	} else if _, err := tunnel.ParseID(o.id); err != nil {
		bad("WithID: %w", err)
	}
	if c := o.carrier; c != "" && c != native.Auto && c != native.QUIC && !slices.Contains(native.Carriers, c) {
		bad("WithCarrier: %q: auto, websocket, stream, poll and quic are allowed", string(c))
	}
	if n := len(o.instance); n > maxInstance {
		bad("WithInstance: the name has %d bytes: at most %d are allowed", n, maxInstance)
	}
	if o.conns < 0 || o.conns > native.MaxConnections {
		bad("WithConnections: %d: 1 to %d are allowed", o.conns, native.MaxConnections)
	}
	if len(o.chosen) > 1 {
		bad("%s: only one of them is allowed", strings.Join(o.chosen, ", "))
	}
	if o.port < 0 || o.port > 65535 {
		bad("WithTCP: port %d: 0 to 65535 are allowed", o.port)
	}
	if o.kind == dialect.TCP && len(o.hostnames) > 0 {
		bad("WithHostname: a TCP port has no hostnames")
	}
	for _, h := range o.hostnames {
		if err := tunnel.CheckHostname(h); err != nil {
			bad("WithHostname: %w", err)
		}
	}
	if o.kind != dialect.HTTP && o.http2 {
		bad("WithHTTP2: it is for HTTP, and not allowed with %s", o.chosen[0])
	}
	if o.policy != nil {
		err := o.policy.CheckHTTP()
		if o.kind != dialect.HTTP {
			err = o.policy.CheckTCP()
		}
		if err == nil {
			o.encoded, err = o.policy.Encode()
		}
		if err != nil {
			bad("WithPolicy: %w", err)
		}
	}
	if err := o.wayOut(); err != nil {
		bad("WithProxy: %w", err)
	}
	if o.backlog < 0 {
		bad("WithBacklog: %d: 0 or more is allowed", o.backlog)
	}
	return errors.Join(errs...)
}

// wayOut sets out.
func (o *options) wayOut() error {
	o.out = &wayout.Dialer{Negotiate: o.ticket}
	if o.tls != nil {
		o.out.TLS = &tls.Config{RootCAs: o.tls.RootCAs} // without the certificate that the server sees
	}
	switch {
	case o.proxy == "direct":
	case o.proxy != "":
		u, err := wayout.ParseProxy(o.proxy)
		if err != nil {
			return err
		}
		o.out.Proxy = func(*url.URL) (*url.URL, error) { return u, nil }
	case o.dial == nil:
		o.out.Proxy = wayout.Environment(os.Getenv)
	}
	return nil
}

// checkServer checks the URL of a server. Its errors repeat nothing of a URL
// that may hold a password.
func checkServer(s string) error {
	const want = "want ws:// or wss:// and a host, such as wss://tunnel.example.com"
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("malformed: " + want)
	case u.User != nil:
		return errors.New("the URL must not contain a user or password: the credential goes into WithToken")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("the URL must not contain '?' or '#': " + want)
	case u.Scheme != "ws" && u.Scheme != "wss" && u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return fmt.Errorf("%q: %s", s, want)
	}
	return nil
}

// showsCertificate reports whether a certificate can stand for the token.
func (o *options) showsCertificate() bool {
	return o.tls != nil && (len(o.tls.Certificates) > 0 || o.tls.GetClientCertificate != nil)
}

// private reports whether nobody can listen on the way to the server: it has
// TLS, or stays on this machine.
func (o *options) private() bool {
	u, err := url.Parse(o.server)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "wss" || u.Scheme == "https" || u.Hostname() == "localhost" || err == nil && a.IsLoopback()
}
