package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"adit/internal/wayout"
)

// How long things may take.
const (
	quickTime    = 28 * time.Second // all of it
	thoroughTime = 7 * time.Minute
	stepTime     = 6 * time.Second  // a step
	connectTime  = 4 * time.Second  // one address
	askTime      = 12 * time.Second // a way through a proxy, and the answer to a request
)

// Options configures Examine. Server is required.
type Options struct {
	// Server is its URL: ws, wss, http or https.
	Server string

	// TLS configures wss, as for the agent; nil verifies the server against the
	// system's certificates.
	TLS *tls.Config

	// Out is the way out, through a proxy perhaps; nil is straight. ProxyFrom is
	// where the proxy was set, for people, such as "HTTPS_PROXY".
	Out       *wayout.Dialer
	ProxyFrom string

	// Host and Header are sent to the server, as those of the agent.
	Host   string
	Header http.Header

	// Thorough takes minutes, to find out for how long a connection may be
	// silent, and measures longer.
	Thorough bool

	// OnStep is told of each step when it is done, if it is not nil.
	OnStep func(Step)

	// OnBegin is told what is looked at next, in a few words, if it is not nil.
	OnBegin func(what string)

	held time.Duration // for which conns are held, or used at most, unless thoroughly; 0 means quickHold
}

// An examination is one call of Examine.
type examination struct {
	opts   Options
	url    *url.URL // http or https
	host   string   // of the server, without port
	addr   string   // of the server, or of the proxy
	client *http.Client
	out    wayout.Dialer
	proxy  *url.URL // without its password; nil if there is none
	report *Report

	connected time.Duration     // how long the fastest address took
	leaf      *x509.Certificate // of who answers with TLS
	info      info              // what the server says
	buffered  bool              // responses come when they have ended
}

// Examine looks at all that is between here and the server. It takes less than
// 30 s, or some minutes if that is asked for, and ends with ctx. The error is
// about opts: everything else is in the report.
func Examine(ctx context.Context, opts Options) (*Report, error) {
	u, err := url.Parse(opts.Server)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("the server's URL is malformed: it looks like wss://tunnel.example.com")
	}
	switch u.Scheme {
	case "ws", "http":
		u.Scheme = "http"
	case "wss", "https":
		u.Scheme = "https"
	default:
		return nil, fmt.Errorf("the server's URL has the scheme %q: ws, wss, http and https are allowed", u.Scheme)
	}
	u.Path, u.User, u.RawQuery, u.Fragment = strings.TrimSuffix(u.Path, "/"), nil, "", ""
	limit := quickTime
	if opts.Thorough {
		limit = thoroughTime
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	x := &examination{opts: opts, url: u, host: u.Hostname(), report: &Report{Server: opts.Server, Carriers: []Carrier{}}}
	if opts.Out != nil {
		x.out = *opts.Out
	}
	if x.proxy, err = x.out.Via(u); err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return x.open(ctx) },
		TLSClientConfig:        x.tlsConfig(),
		DisableCompression:     true,
		TLSHandshakeTimeout:    stepTime,
		ResponseHeaderTimeout:  askTime,
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // as agents do it: no HTTP/2
		MaxResponseHeaderBytes: 64 << 10,
	}
	defer transport.CloseIdleConnections()
	x.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	x.addr = addrOf(u)
	if x.proxy != nil {
		x.addr, x.report.Proxy = addrOf(x.proxy), (&url.URL{Scheme: x.proxy.Scheme, Host: x.proxy.Host}).String()
	}
	if x.resolve(ctx) && x.askProxy(ctx) && x.secure(ctx) && x.askServer(ctx) {
		x.carry(ctx)
	}
	x.conclude()
	x.report.Took = time.Since(began)
	return x.report, nil
}

func addrOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// tlsConfig is the agent's.
func (x *examination) tlsConfig() *tls.Config {
	config := &tls.Config{}
	if x.opts.TLS != nil {
		config = x.opts.TLS.Clone()
	}
	config.NextProtos = []string{"http/1.1"}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	if config.ServerName == "" {
		config.ServerName = x.host
	}
	return config
}

// begin says what is looked at next.
func (x *examination) begin(format string, args ...any) {
	if x.opts.OnBegin != nil {
		x.opts.OnBegin(fmt.Sprintf(format, args...))
	}
}

// step puts down what a step has brought.
func (x *examination) step(name string, began time.Time, status Status, format string, args ...any) {
	s := Step{Name: name, Status: status, Text: fmt.Sprintf(format, args...)}
	if !began.IsZero() {
		s.Seconds = time.Since(began).Seconds()
	}
	x.report.Steps = append(x.report.Steps, s)
	if x.opts.OnStep != nil {
		x.opts.OnStep(s)
	}
}

func (x *examination) find(code string, severity Status, culprit, remedy string) {
	x.report.Findings = append(x.report.Findings, Finding{code, severity, culprit, remedy})
}

// resolve looks up the first host on the way and dials each of its addresses.
func (x *examination) resolve(ctx context.Context) bool {
	host, port, _ := net.SplitHostPort(x.addr)
	x.begin("resolve: looking up %s, and connecting", host)
	began := time.Now()
	what := host
	if x.proxy != nil {
		what = "the proxy " + host
	}
	var addrs []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{a}
	} else {
		limited, cancel := context.WithTimeout(ctx, stepTime)
		defer cancel()
		addrs, err = net.DefaultResolver.LookupNetIP(limited, "ip", host)
		if err != nil || len(addrs) == 0 {
			x.step("resolve", began, Failed, "%s: %s", what, reason(err))
			if x.proxy == nil {
				x.find("dns", Failed, fmt.Sprintf("The name %s is not to be found: %s.", host, reason(err)),
					"Check the name in --server. If only a proxy knows names from outside, give it with --proxy or HTTPS_PROXY.")
			} else {
				x.find("dns", Failed, fmt.Sprintf("The name of the proxy, %s, is not to be found: %s.", host, reason(err)),
					fmt.Sprintf("Check the proxy's URL, which is from %s.", x.opts.ProxyFrom))
			}
			return false
		}
		for i, a := range addrs {
			addrs[i] = a.Unmap()
		}
		x.step("resolve", began, OK, "%s: %s", what, list(addrs))
	}
	return x.dial(ctx, addrs[:min(len(addrs), 8)], port)
}

func list(addrs []netip.Addr) string {
	const most = 3
	var texts []string
	for i, a := range addrs {
		if i == most {
			texts = append(texts, fmt.Sprintf("and %d more", len(addrs)-most))
			break
		}
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ", ")
}

// dial connects to all addresses at once.
func (x *examination) dial(ctx context.Context, addrs []netip.Addr, port string) bool {
	began := time.Now()
	errs := make([]error, len(addrs))
	took := make([]time.Duration, len(addrs))
	var wg sync.WaitGroup
	for i, a := range addrs {
		wg.Go(func() {
			d := net.Dialer{Timeout: connectTime}
			conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(a.String(), port))
			if took[i], errs[i] = time.Since(began), err; err == nil {
				conn.Close()
			}
		})
	}
	wg.Wait()
	var good, bad []string
	var badVersion = map[bool]int{}
	var last error
	for i, a := range addrs {
		if errs[i] != nil {
			bad = append(bad, fmt.Sprintf("%s: %s", a, reason(errs[i])))
			badVersion[a.Is6()]++
			last = errs[i]
			continue
		}
		good = append(good, fmt.Sprintf("%s in %s", a, short(took[i])))
		if x.connected == 0 || took[i] < x.connected {
			x.connected = took[i]
		}
	}
	switch {
	case len(good) == 0:
		x.step("dial", began, Failed, "port %s: %s", port, strings.Join(bad, "; "))
		what := "The server"
		remedy := "Check that the server runs, that its port is open, and the port in --server. If this network lets nobody out but through a proxy, give that with --proxy or HTTPS_PROXY."
		if x.proxy != nil {
			what, remedy = "The proxy", fmt.Sprintf("Check the proxy's URL, which is from %s, and whether the proxy runs.", x.opts.ProxyFrom)
		}
		x.find("unreachable", Failed, fmt.Sprintf("%s does not take connections at %s: %s.", what, x.addr, reason(last)), remedy)
		return false
	case len(bad) > 0:
		x.step("dial", began, Warning, "port %s: %s; but %s", port, strings.Join(good, ", "), strings.Join(bad, "; "))
		which := "Some of the addresses"
		if badVersion[true] == len(bad) && badVersion[false] == 0 {
			which = "Its IPv6 addresses"
		}
		x.find("address", OK, fmt.Sprintf("%s cannot be reached from here: %s.", which, bad[0]),
			"Connecting may take some hundred milliseconds longer. Whoever runs the server or this network can mend that.")
	default:
		x.step("dial", began, OK, "port %s: %s", port, strings.Join(good, ", "))
	}
	return true
}

// at returns the URL of a path of the server's.
func (x *examination) at(path string) string { return x.url.String() + path }
