package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpproxy"

	"adit/auth"
	"adit/dialect/wstunnel"
)

// wstunnelVersion is what is printed for the original's version, whose flags
// and texts are these.
const wstunnelVersion = "1.0.7"

// wstunnelGCPercent is high: what lives is little, the bodies aside, which are in
// files, and each request leaves some garbage.
const wstunnelGCPercent = 400

// wstunnel is the program of that name.
func (p *program) wstunnel(ctx context.Context, args []string) int {
	w := &wstunnelRun{p: p}
	w.logTo(p.out, logfmtStyle, "WStunnel")
	defer func() { w.flush() }()
	mode := ""
	if len(args) > 0 {
		mode, args = args[0], args[1:]
	}
	if p.getenv("GOGC") == "" {
		debug.SetGCPercent(wstunnelGCPercent)
	}
	switch mode {
	case "srv":
		return w.serve(ctx, args)
	case "cli":
		return w.connect(ctx, args)
	case "whois":
		return w.whois(ctx, args)
	case "version", "-version", "--version":
		w.crit(fmt.Sprintf("wstunnel v%s (adit)", wstunnelVersion))
		return exitFailed
	case "":
		w.crit("Usage: wstunnel [cli|srv|whois|version] [-options...]")
		return exitFailed
	}
	w.crit("Usage: wstunnel [cli|srv] [-options...]")
	return exitFailed
}

// A wstunnelRun is one run of a command, with the files that it has opened.
type wstunnelRun struct {
	p       *program
	log     *slog.Logger
	pidFile string
	logFile string
	flush   func() // of log
	closes  []func()
}

func (w *wstunnelRun) logTo(out io.Writer, style wstunnelStyle, pkg string) {
	w.log, w.flush = newWstunnelLog(out, style, pkg)
}

func (w *wstunnelRun) crit(msg string, args ...any) {
	w.log.Log(context.Background(), levelCrit, msg, args...)
}

// fail reports why the command cannot start.
func (w *wstunnelRun) fail(msg string, args ...any) int {
	w.crit(msg, args...)
	return exitFailed
}

func (w *wstunnelRun) close() {
	w.flush()
	for _, c := range w.closes {
		c()
	}
}

// parse returns false and the exit code if the command is over.
func (w *wstunnelRun) parse(fl *flag.FlagSet, args []string) (code int, ok bool) {
	fl.SetOutput(w.p.errOut)
	switch err := fl.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitDone, false
	case err != nil:
		return exitUsage, false
	}
	return 0, true
}

func (w *wstunnelRun) writePid() error {
	if w.pidFile == "" {
		return nil
	}
	os.Remove(w.pidFile)
	f, err := os.OpenFile(w.pidFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	return errors.Join(err, f.Close())
}

func (w *wstunnelRun) openLog(pkg string) error {
	if w.logFile == "" {
		w.logTo(w.p.out, logfmtStyle, pkg)
		return nil
	}
	f, err := os.OpenFile(w.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	w.closes = append(w.closes, func() { f.Close() })
	w.logTo(f, fileStyle, pkg)
	return nil
}

// levelFlags adds the flags of the original's continuation for the log.
func (w *wstunnelRun) levelFlags(fl *flag.FlagSet) *string {
	fl.Bool("log-pretty", false, "accepted and not used: the log has the form of wstunnel 1.0")
	return fl.String("log-level", "debug", "what is logged: debug, info, warn or error")
}

func (w *wstunnelRun) setLevel(level string) error {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return fmt.Errorf("-log-level %q: debug, info, warn and error are allowed", level)
	}
	w.log = slog.New(leveled{w.log.Handler(), l})
	return nil
}

// leveled leaves out what is below a level.
type leveled struct {
	slog.Handler
	least slog.Level
}

func (h leveled) Enabled(_ context.Context, l slog.Level) bool { return l >= h.least }

func (h leveled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return leveled{h.Handler.WithAttrs(attrs), h.least}
}

func (h leveled) WithGroup(name string) slog.Handler {
	return leveled{h.Handler.WithGroup(name), h.least}
}

// clampTimeout keeps a time-out in the range that the original allows.
func clampTimeout(seconds int) time.Duration {
	return time.Duration(min(max(seconds, 3), 600)) * time.Second
}

// maxWstunnelSecret bounds a file with a token or a password, in bytes.
const maxWstunnelSecret = 4 << 10

// connect is wstunnel cli.
func (w *wstunnelRun) connect(ctx context.Context, args []string) int {
	defer w.close()
	fl := flag.NewFlagSet("client", flag.ContinueOnError)
	split := fl.Bool("split-token", false, "take -token as TOKEN:PASSWORD, as wstunnel 1.1 does")
	passwordFile := fl.String("password-file", "", "file that holds the password of the token")
	level := w.levelFlags(fl)
	token := fl.String("token", "", "rendez-vous token identifying this server (seen by all users of this machine: better -token-file)")
	tokenFile := fl.String("token-file", "", "file that holds the token")
	tunnel := fl.String("tunnel", "", "websocket server ws[s]://user:pass@hostname:port to connect to")
	server := fl.String("server", "", "http server http[s]://hostname:port to send received requests to")
	expr := fl.String("regexp", "", "regexp for local HTTP(S) server to allow sending received requests to")
	insecure := fl.Bool("insecure", false, "accept self-signed SSL certs from local HTTPS servers")
	certFile := fl.String("certfile", "", "path for trusted certificates in PEM-encoded format")
	timeout := fl.Int("timeout", 30, "timeout on websocket in seconds")
	proxy := fl.String("proxy", "", "use HTTPS proxy http://user:pass@hostname:port")
	ports := fl.String("client-ports", "", "comma separated list of client listening ports ex: -client-ports 8000..8100,8300..8400,8500,8505")
	fl.StringVar(&w.pidFile, "pidfile", "", "path for pidfile")
	fl.StringVar(&w.logFile, "logfile", "", "path for log file")
	statusFile := fl.String("statusfile", "", "path for status file")
	redirects := fl.String("redirects", "follow", "what to do with redirects of local servers: follow or pass")
	messages := fl.Bool("original-format", false, "speak the original's format with servers that are adit too")
	maxBody := fl.Int64("max-body", 0, "largest answer in bytes to servers that are not adit (default and most 104857600)")
	if code, ok := w.parse(fl, args); !ok {
		return code
	}
	if err := w.openLog("WStuncli"); err != nil {
		return w.fail("Can't create log file", "path", w.logFile, "err", err)
	}
	if err := w.writePid(); err != nil {
		return w.fail("Can't create pidfile", "path", w.pidFile, "err", err)
	}
	opts := wstunnel.ClientOptions{
		Tunnel: strings.TrimSuffix(*tunnel, "/"), Token: *token, Server: *server,
		Insecure: *insecure, Timeout: clampTimeout(*timeout), Messages: *messages,
		PassRedirects: *redirects == "pass", MaxBody: min(*maxBody, wstunnel.MaxMessage), Log: w.log,
	}
	if err := w.setLevel(*level); err != nil {
		return w.fail(err.Error())
	}
	opts.Log = w.log
	if *statusFile != "" {
		sf := &statusFileWriter{path: *statusFile}
		if err := sf.create(); err != nil {
			return w.fail("Can't create statusfile", "path", *statusFile, "err", err)
		}
		opts.OnAlive = func() { sf.write(time.Now()) }
	}
	if *expr != "" {
		re, err := regexp.Compile(*expr)
		if err != nil {
			return w.fail("Can't parse -regexp", "err", err)
		}
		opts.Regexp = re
	}
	way, err := w.wayOut(*proxy)
	if err != nil {
		return w.fail(err.Error())
	}
	opts.Proxy = way
	from, err := localPorts(*ports)
	if err != nil {
		return w.fail(err.Error())
	}
	if server, uerr := url.Parse("http" + strings.TrimPrefix(opts.Tunnel, "ws")); len(from) > 0 && uerr == nil {
		var via *url.URL
		if way != nil {
			via, _ = way(server)
		}
		if via == nil { // a proxy is dialled from any port
			opts.DialContext = w.dialFrom(from)
		}
	}
	if *tokenFile != "" {
		text, err := auth.ReadPrivate(*tokenFile, maxWstunnelSecret)
		if err != nil {
			return w.fail("Can't read -token-file", "err", err)
		}
		opts.Token = strings.TrimSpace(string(text))
	}
	if *split {
		opts.Token, opts.Password, _ = strings.Cut(opts.Token, ":")
	}
	if *passwordFile != "" {
		text, err := auth.ReadPrivate(*passwordFile, maxWstunnelSecret)
		if err != nil {
			return w.fail("Can't read -password-file", "err", err)
		}
		opts.Password = strings.TrimSpace(string(text))
	}
	if *certFile != "" {
		if opts.RootCAs, err = rootsWith(*certFile); err != nil {
			return w.fail("Can't read -certfile", "err", err)
		}
	}
	switch {
	case *tunnel == "":
		return w.fail("Must specify tunnel server ws://hostname:port using -tunnel option")
	case !strings.HasPrefix(*tunnel, "ws://") && !strings.HasPrefix(*tunnel, "wss://"):
		return w.fail("Remote tunnel (-tunnel option) must begin with ws:// or wss://")
	case opts.Token == "":
		return w.fail("Must specify rendez-vous token using -token option")
	case *server != "" && !strings.HasPrefix(*server, "http://") && !strings.HasPrefix(*server, "https://"):
		return w.fail("Local server (-server option) must begin with http:// or https://")
	case *server == "" && *expr == "":
		return w.fail("Must specify internal server or server or regexp")
	case *redirects != "follow" && *redirects != "pass":
		return w.fail("-redirects takes follow or pass")
	}
	c, err := wstunnel.NewClient(opts)
	if err != nil {
		return w.fail(err.Error())
	}
	w.log.Info("WStunnel starting", "version", wstunnelVersion)
	c.Run(ctx)
	return exitDone
}

func rootsWith(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM form", file)
	}
	return roots, nil
}

// wayOut returns the proxy for the tunnel: that of the flag, or the first of
// the environment, whatever the tunnel's scheme. NO_PROXY is heeded, which the
// original does not look at.
func (w *wstunnelRun) wayOut(flagged string) (func(*url.URL) (*url.URL, error), error) {
	if flagged != "" {
		u, err := proxyURL(flagged)
		if err != nil {
			return nil, err
		}
		return func(*url.URL) (*url.URL, error) { return u, nil }, nil
	}
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
		value := w.p.getenv(name)
		if value == "" {
			continue
		}
		u, err := proxyURL(value)
		if err != nil {
			return nil, err
		}
		exempt := w.p.getenv("NO_PROXY")
		if exempt == "" {
			exempt = w.p.getenv("no_proxy")
		}
		if exempt == "" {
			return func(*url.URL) (*url.URL, error) { return u, nil }, nil
		}
		// Of this only whether there is one counts.
		judge := (&httpproxy.Config{HTTPProxy: "http://x", HTTPSProxy: "http://x", NoProxy: exempt}).ProxyFunc()
		return func(server *url.URL) (*url.URL, error) {
			if via, err := judge(server); err != nil || via == nil && listed(server.Hostname(), exempt) {
				return nil, err
			}
			return u, nil
		}, nil
	}
	return nil, nil
}

// listed reports whether NO_PROXY is what exempts host: httpproxy exempts this
// machine in any case, for which the original uses the proxy all the same.
func listed(host, exempt string) bool {
	ip := net.ParseIP(host)
	if host != "localhost" && !(ip != nil && ip.IsLoopback()) {
		return true
	}
	for entry := range strings.SplitSeq(exempt, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "*" || entry == host {
			return true
		}
		if _, block, err := net.ParseCIDR(entry); err == nil && ip != nil && block.Contains(ip) {
			return true
		}
	}
	return false
}

// A startText is an error in the words of the original, which begin with a
// capital.
type startText string

func (e startText) Error() string { return string(e) }

func startTextf(format string, args ...any) error { return startText(fmt.Sprintf(format, args...)) }

// proxyURL reads a proxy's URL, whose scheme may be missing. As the original
// does, it speaks plain TCP with the proxy even for https.
func proxyURL(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return nil, startText("Invalid proxy address: it is not of the form http://user:password@host:port")
	}
	if u.Scheme == "https" {
		u.Scheme = "http"
	}
	return u, nil
}

// localPorts reads a list of ports and ranges, such as 8000..8100,8500.
func localPorts(list string) ([]int, error) {
	if list == "" {
		return nil, nil
	}
	var ports []int
	for item := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(item, "..")
		from, err := strconv.Atoi(first)
		if err != nil || from < 1 || from > 65535 {
			if ranged {
				return nil, startTextf("Invalid Port Assignment: %q in range: %q", first, item)
			}
			return nil, startTextf("Can not convert %q to integer", item)
		}
		to := from
		if ranged {
			if to, err = strconv.Atoi(last); err != nil || to < 1 || to > 65535 {
				return nil, startTextf("Invalid Port Assignment: %q in range: %q", last, item)
			}
		}
		if to < from {
			return nil, startTextf("End port %d can not be less than beginning port %d", to, from)
		}
		for ; from <= to; from++ {
			ports = append(ports, from)
		}
	}
	return ports, nil
}

// dialFrom dials from the first of ports that is free.
func (w *wstunnelRun) dialFrom(ports []int) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		var last error
		for _, port := range ports {
			d := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}}
			conn, err := d.DialContext(ctx, network, addr)
			if err == nil {
				w.log.Info("WS   connected from", "port", port)
				return conn, nil
			}
			if !portTaken(err) {
				return nil, err
			}
			w.log.Info("WS   port is taken", "port", port)
			last = err
		}
		return nil, last
	}
}

// whois looks an address up as far as that goes without asking others: the
// service that the original asks is no more.
func (w *wstunnelRun) whois(ctx context.Context, args []string) int {
	if len(args) != 2 {
		return w.fail("Usage: wstunnel whois <robowhois-token> <ip-address>")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	names, err := new(net.Resolver).LookupAddr(ctx, args[1])
	w.log.Info("DNS   lookup", "ip", args[1], "dns", strings.Join(names, ","), "err", err)
	w.log.Info("WHOIS lookup", "ip", args[1], "whois", "")
	return exitDone
}

// A statusFileWriter keeps the file that tells when the server was last heard.
type statusFileWriter struct {
	path string
	mu   sync.Mutex // held while it is written
}

func (s *statusFileWriter) create() error { return os.WriteFile(s.path, nil, 0o644) }

func (s *statusFileWriter) write(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	os.WriteFile(s.path, fmt.Appendf(nil, "Unix: %d\nTime: %s\n", at.Unix(), at.UTC().Format(time.RFC3339)), 0o644)
}
