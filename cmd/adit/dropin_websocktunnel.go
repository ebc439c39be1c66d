package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"adit/auth"
	"adit/dialect"
	"adit/dialect/websocktunnel"
	"adit/ingress"
	"adit/server"
	"adit/tunnel"
)

// The version of websocktunnel whose place adit takes.
const websocktunnelVersion = "106.0.0"

const websocktunnelUsage = `Usage: websocktunnel [options]

The server of Taskcluster's websocktunnel, and of webhooktunnel, as adit runs
it. It takes its settings from the environment:

  URL_PREFIX                    public address of the server, required unless
                                there is HOSTNAME
  HOSTNAME                      its host alone; with TLS, clients of
                                webhooktunnel are at https://ID.HOSTNAME
  PORT                          port to listen at (443 with TLS, else 80)
  TASKCLUSTER_PROXY_SECRET_A    secrets that tokens are signed with, required
  TASKCLUSTER_PROXY_SECRET_B
  TLS_KEY, TLS_CERTIFICATE      base64 of the PEM files
  AUDIENCE                      audience that tokens must be for
  ENV                           "production" logs JSON
  SYSLOG_ADDR                   host:port of a syslog server, in production

Options:
  -h --help                     show this text
     --version                  show the version that this stands for
     --short-version            show its number alone

Options of adit, which the environment may have too, such as ADIT_HOLD=30s:
`

// websocktunnelFlags are what websocktunnel does not have.
type websocktunnelFlags struct {
	p             *program
	help, version bool
	short         bool
	tokens        string
	unknown       int
	origins       string
	urlPort       bool
	hold, grace   time.Duration
	dataDir       string
	viewers       registrantViewerFlags
	ops           opsFlags
}

func (f *websocktunnelFlags) parser() optionParser {
	o := newOptionParser("websocktunnel")
	fl := o.FlagSet
	fl.BoolVarP(&f.help, "help", "h", false, "")
	fl.BoolVar(&f.version, "version", false, "")
	fl.BoolVar(&f.short, "short-version", false, "")
	o.original("help", "version", "short-version")
	addTunnelTokens(fl, "tokens", &f.tokens)
	fl.IntVar(&f.unknown, "unknown-status", http.StatusGatewayTimeout, "status for ids that no client is connected with: 504, or 404 as before December 2018")
	fl.StringVar(&f.origins, "domain", "", "domain below which each id has a host, and so an origin, of its own: clients are told ID.DOMAIN (default paths, but for clients of webhooktunnel where there is TLS)")
	fl.BoolVar(&f.urlPort, "url-port", false, "say the port in the addresses that clients of webhooktunnel are told")
	fl.DurationVar(&f.hold, "hold", 0, "how long viewers wait for a client that is away; 0s for not at all")
	fl.DurationVar(&f.grace, "grace", 0, "how long viewers may finish when the server is told to stop; 0s for not at all")
	fl.StringVar(&f.dataDir, "data-dir", f.p.dataDir(), "folder for what must last: the token of --admin, and blocked names")
	f.viewers.add(fl, "")
	f.ops.add(fl, f.p)
	return o
}

// websocktunnel stands in for the server.
func (p *program) websocktunnel(ctx context.Context, args []string) int {
	f := websocktunnelFlags{p: p}
	o := f.parser()
	err := o.parse(args)
	if err == nil && o.NArg() > 0 {
		err = fmt.Errorf("argument %q", o.Arg(0))
	}
	switch {
	case err != nil:
		fmt.Fprintf(p.errOut, "websocktunnel: %v\nUsage: websocktunnel [-h | --help] [--version] [--short-version] [options of adit]\n", err)
		return exitFailed
	case f.help:
		fmt.Fprint(p.out, websocktunnelUsage, o.FlagUsages())
		return exitDone
	case f.version:
		fmt.Fprintln(p.out, "websocktunnel", websocktunnelVersion)
		return exitDone
	case f.short:
		fmt.Fprintln(p.out, websocktunnelVersion)
		return exitDone
	}
	if err = o.fromEnvironment(p); err == nil {
		err = f.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(p.errOut, "websocktunnel:", err)
		return exitUsage
	}
	return exitDone
}

// required returns the text of a variable that must be there.
func (p *program) required(name string) (string, error) {
	v := p.getenv(name)
	if v == "" {
		return "", fmt.Errorf("the environment has no %s", name)
	}
	return v, nil
}

func (f *websocktunnelFlags) run(ctx context.Context) error {
	if f.p.getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	log, err := f.logger()
	if err != nil {
		return err
	}
	w, err := f.place()
	if err != nil {
		return err
	}
	opts, err := f.options(w, log)
	if err != nil {
		return err
	}
	operators, err := f.ops.open(&opts, f.dataDir)
	if err != nil {
		return err
	}
	s, err := server.New(opts)
	if err != nil {
		operators.close()
		if oe, ok := errors.AsType[*server.OptionError](err); ok && oe.Field == "Domain" {
			what := "HOSTNAME"
			if f.origins != "" {
				what = "--domain"
			}
			return fmt.Errorf("%s: %s", what, oe.Reason)
		}
		return err
	}
	log.Info("server started", "listen", s.Addr().String(), "url", w.prefix, "hostname", w.host, "tls", opts.Secure != nil)
	defer f.p.reloading(ctx, "", func(string) { s.Reload() })()
	defer f.p.supervise(ctx, "serving "+w.prefix)()
	return f.ops.run(ctx, s, operators)
}

// options makes the server's options of the environment and the flags.
func (f *websocktunnelFlags) options(w *whereabouts, log *slog.Logger) (opts server.Options, err error) {
	secretA, err := f.p.required("TASKCLUSTER_PROXY_SECRET_A")
	if err != nil {
		return opts, err
	}
	secretB, err := f.p.required("TASKCLUSTER_PROXY_SECRET_B")
	if err != nil {
		return opts, err
	}
	if err := checkTunnelTokens("tokens", f.tokens); err != nil {
		return opts, err
	}
	if f.unknown != http.StatusGatewayTimeout && f.unknown != http.StatusNotFound {
		return opts, fmt.Errorf("--unknown-status %d: 504 and 404 are allowed", f.unknown)
	}
	for name, d := range map[string]time.Duration{"hold": f.hold, "grace": f.grace} {
		if d < 0 || d > 24*time.Hour {
			return opts, fmt.Errorf("--%s %v: 0s to 24h are allowed", name, d)
		}
	}
	tokens, err := auth.NewTunnelTokens(auth.TunnelTokenOptions{
		Secrets:  []string{secretA, secretB},
		Audience: f.p.getenv("AUDIENCE"),
		Lax:      f.tokens == "lax",
	})
	if err != nil {
		return opts, err
	}
	nobody, err := auth.NewAuthenticator(auth.Options{})
	if err != nil {
		return opts, err
	}
	opts = server.Options{
		Listen:       ":" + w.port,
		Domain:       w.domain(),
		PathMode:     true,
		Rules:        w.rules(f.unknown),
		Own:          ownPages,
		Secure:       w.tls,
		OpenTimeout:  30 * time.Second,
		MaxHeadBytes: 1 << 20,
		Hold:         orNever(f.hold),
		Grace:        orNever(f.grace),
		Dialects:     []dialect.Dialect{websocktunnel.New(websocktunnel.Options{Auth: tokens, URL: w.url})},
		Auth:         nobody,
		Logger:       log,
	}
	if err := f.viewers.apply(f.p, &opts); err != nil {
		return opts, err
	}
	return opts, f.ops.apply(&opts, f.dataDir)
}

func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// logger returns the log of websocktunnel.
func (f *websocktunnelFlags) logger() (*slog.Logger, error) {
	h := newLineHandler(textStyle, slog.LevelInfo, f.p.errOut)
	h.logger = "websocktunnel"
	h.rename = map[string]string{"remote": "remote-addr", "tunnel": "tunnel-id"}
	switch {
	case f.p.getenv("ENV") == "production":
		h.style = envelopeStyle
		if addr := f.p.getenv("SYSLOG_ADDR"); addr != "" {
			w, err := dialSyslog(addr, "websocktunnel")
			if err != nil {
				return nil, fmt.Errorf("SYSLOG_ADDR %q: %w", addr, err)
			}
			h.out = append(h.out, w)
		}
	case f.p.console:
		h.style = colourStyle
	}
	return slog.New(h), nil
}

// whereabouts is where viewers and clients find the server.
type whereabouts struct {
	prefix string // URL_PREFIX, or what stands for it
	host   string // HOSTNAME, if it is to be used
	port   string
	both   bool   // URL_PREFIX is given too
	below  string // domain of the hosts of all clients' ids; empty for none
	tls    *tls.Config
	ports  bool // are said in the addresses of webhooktunnel
}

// place finds out from the environment. URL_PREFIX goes before HOSTNAME. If
// both are there, HOSTNAME counts only if it has a dot: container engines set
// it to names that nobody can resolve.
func (f *websocktunnelFlags) place() (*whereabouts, error) {
	w := &whereabouts{
		prefix: strings.TrimSuffix(f.p.getenv("URL_PREFIX"), "/"),
		host:   f.p.getenv("HOSTNAME"),
		port:   f.p.getenv("PORT"),
		ports:  f.urlPort,
		below:  strings.ToLower(f.origins),
	}
	var err error
	if w.tls, err = keyPair(f.p.getenv("TLS_KEY"), f.p.getenv("TLS_CERTIFICATE")); err != nil {
		return nil, err
	}
	usual := "80"
	scheme := "http"
	if w.tls != nil {
		usual, scheme = "443", "https"
	}
	if w.port == "" {
		w.port = usual
	}
	switch {
	case w.prefix == "" && w.host == "":
		return nil, errors.New("the environment has no URL_PREFIX, and no HOSTNAME instead")
	case w.prefix == "":
		w.prefix = scheme + "://" + w.host
		if n, err := net.LookupPort("tcp", w.port); err != nil || fmt.Sprint(n) != usual {
			w.prefix += ":" + w.port
		}
	default:
		w.both = true
		if !strings.Contains(w.host, ".") {
			w.host = ""
		}
	}
	return w, nil
}

// keyPair returns a TLS configuration, and nil without key and certificate. One
// that is of no use is an error: what is meant to be encrypted must not be
// served without.
func keyPair(key, certificate string) (*tls.Config, error) {
	if key == "" && certificate == "" {
		return nil, nil
	}
	k, err := base64.StdEncoding.DecodeString(key)
	if err != nil || key == "" {
		return nil, errors.New("TLS_KEY: want the base64 of a PEM file, as TLS_CERTIFICATE is given")
	}
	c, err := base64.StdEncoding.DecodeString(certificate)
	if err != nil || certificate == "" {
		return nil, errors.New("TLS_CERTIFICATE: want the base64 of a PEM file, as TLS_KEY is given")
	}
	pair, err := tls.X509KeyPair(c, k)
	if err != nil {
		return nil, fmt.Errorf("TLS_KEY and TLS_CERTIFICATE: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// byHost reports whether clients of webhooktunnel are found by hostname, as
// with that where there is TLS.
func (w *whereabouts) byHost() bool { return w.tls != nil && w.host != "" }

// domain is that of the clients' hostnames.
func (w *whereabouts) domain() string {
	switch {
	case w.below != "":
		return w.below
	case w.byHost():
		return strings.ToLower(w.host)
	}
	return ""
}

// url is what a client is told. An ID that browsers cannot write as a hostname
// has a path.
func (w *whereabouts) url(f *websocktunnel.Family, id string, _ dialect.Bound) string {
	_, err := tunnel.ParseID(id)
	switch {
	case w.below != "" && err == nil:
		u, err := url.Parse(w.prefix)
		if err != nil {
			return w.prefix + "/" + id
		}
		host := id + "." + w.below
		if port := u.Port(); port != "" {
			host += ":" + port
		}
		return u.Scheme + "://" + host
	case w.below != "" || f != websocktunnel.Webhooktunnel || w.host == "":
		return w.prefix + "/" + id
	}
	scheme, port := "http", ""
	if w.tls != nil {
		scheme = "https"
	}
	if usual := map[string]string{"http": "80", "https": "443"}[scheme]; w.ports && w.port != usual {
		port = ":" + w.port
	}
	if w.byHost() && err == nil {
		return scheme + "://" + id + "." + w.host + port
	}
	return scheme + "://" + w.host + port + "/" + id
}

// rules are those for viewers. Where clients are found by hostname, other hosts
// than the server's own names and addresses lead nowhere.
func (w *whereabouts) rules(unknown int) *ingress.Rules {
	r := &ingress.Rules{
		Paths:     true,
		OwnFields: websocktunnel.RegistrationHeaders(),
		OwnPaths:  []string{"/__heartbeat__", "/__lbheartbeat__", "/__version__"},
		Answer:    func(code string, status int) (int, string) { return websocktunnelAnswer(code, status, unknown) },
		UserAgent: "Go-http-client/1.1",
		MaxFields: 2000,
		MaxTarget: 256 << 10,
	}
	if w.domain() != "" {
		r.Hosts = true
		if w.host != "" {
			r.PathHosts = append(r.PathHosts, strings.ToLower(w.host))
		}
		if u, err := url.Parse(w.prefix); err == nil && w.both {
			r.PathHosts = append(r.PathHosts, strings.ToLower(u.Hostname()))
		}
	}
	return r
}

// websocktunnelAnswer is what viewers are told of a problem.
func websocktunnelAnswer(code string, status, unknown int) (int, string) {
	switch code {
	case "unknown-name", "agent-offline", "queue-full":
		if unknown == http.StatusNotFound {
			return unknown, "Not Found\n"
		}
		return unknown, "No client is connected with that id\n"
	case "not-found", "method-not-allowed":
		return http.StatusNotFound, "404 page not found\n"
	case "shutting-down", "too-many-visitors":
	default:
		if status >= 500 {
			status = http.StatusInternalServerError
		}
	}
	return status, http.StatusText(status) + "\n"
}

// versionFile is where container images have what they are made of.
const versionFile = "/app/version.json"

// ownPages answers load balancers and those who ask for the version.
func ownPages(r *http.Request) http.Handler {
	switch r.URL.Path {
	case "/__heartbeat__", "/__lbheartbeat__":
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	case "/__version__":
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f, err := os.Open(versionFile)
			if err != nil {
				http.NotFound(w, r)
				return
			}
			defer f.Close()
			w.Header().Set("Content-Type", "application/json")
			io.Copy(w, f)
		})
	}
	return nil
}
