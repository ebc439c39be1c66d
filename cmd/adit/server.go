package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"adit/auth"
	"adit/config"
	"adit/dialect"
	"adit/dialect/native"
	"adit/ingress"
	"adit/server"
	"adit/session"
)

// serverFlags are the flags of adit server.
type serverFlags struct {
	p              *program
	config         string
	listen         string
	domain         string
	pathMode       bool
	publicURL      string
	dataDir        string
	secretFile     string
	tcpPorts       []string
	udpPorts       []string
	trustedProxies []string
	hold           time.Duration
	grace          time.Duration
	resumeWindow   time.Duration
	memory         int64
	policy         serverPolicyFlags
	forward        forwardRuleFlags
	log            logFlags
	ops            opsFlags
	identity       identityFlags
	tls            tlsFlags
	websocktunnel  serverTunnelFlags
	wstunnel       serverWstunnelFlags
	doctor         serverDoctorFlags
	quic           serverQUICFlags
	forest         serverForestFlags
	routes         configRoutes

	running *server.Server // nil before it does
}

func (p *program) serverCommand() *cobra.Command {
	f := serverFlags{p: p}
	c := &cobra.Command{
		Use:   "server",
		Short: "Run the public server",
		Long: "Run the server that visitors and agents connect to, both at --listen.\n\n" +
			"The first start makes a secret in --data-dir. Agents need it, or a token signed\n" +
			"with it; without either nobody can expose anything.",
		Example: "  adit server\n" +
			"  adit server --listen :80 --domain tunnel.example.com --tcp-ports 2000-2999\n" +
			"  adit server --config /etc/adit/server.yaml",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return f.run(c.Context(), c.Flags())
		},
	}
	f.add(c.Flags())
	return c
}

func (f *serverFlags) add(fl *pflag.FlagSet) {
	addConfig(fl, &f.config, "file with settings in YAML: its keys are the flags here, without the dashes")
	fl.StringVar(&f.listen, "listen", ":8080", "address for visitors and agents; "+noListen+" for --tls-listen alone")
	fl.StringVar(&f.domain, "domain", "", "domain below which each ID has a hostname: <id>.<domain> (default localhost, for visitors on this machine)")
	fl.BoolVar(&f.pathMode, "path-mode", false, "serve each ID at /<id>/ too (always so without --domain)")
	fl.StringVar(&f.publicURL, "public-url", "", "how --listen is reached from outside, such as https://tunnel.example.com")
	fl.StringVar(&f.dataDir, "data-dir", f.p.dataDir(), "folder for what must last")
	fl.StringVar(&f.secretFile, "secret-file", "", "file with the secret, instead of the one in --data-dir")
	fl.StringSliceVar(&f.tcpPorts, "tcp-ports", nil, "public TCP ports for agents, such as 2222,3000-3999 (default none)")
	fl.StringSliceVar(&f.udpPorts, "udp-ports", nil, "public UDP ports for agents, such as 51820,5000-5099 (default none)")
	fl.StringSliceVar(&f.trustedProxies, "trusted-proxies", nil, "addresses or prefixes whose X-Forwarded-* are kept")
	fl.DurationVar(&f.hold, "hold", 30*time.Second, "how long visitors wait for an agent that is away; 0s for not at all")
	fl.DurationVar(&f.grace, "grace", 10*time.Second, "how long visitors may finish when the server is told to stop")
	fl.DurationVar(&f.resumeWindow, "resume-window", time.Minute, "how long streams wait for an agent that lost its connection; 0s for not at all")
	fl.Int64Var(&f.memory, "buffer-memory", 512, "MiB that all agents' send buffers may take together")
	f.tls.add(fl)
	f.policy.add(fl)
	f.forward.add(fl)
	f.identity.add(fl)
	f.websocktunnel.add(fl, f.p)
	f.wstunnel.add(fl, f.p)
	f.doctor.add(fl)
	f.quic.add(fl)
	f.forest.add(fl)
	f.log.add(fl, false)
	f.ops.add(fl, f.p)
}

// settings returns what the flags say. Those of fl that are not set are set
// from the config file before, if there is one; place puts errors about flags at
// their place in it.
func (f *serverFlags) settings(fl *pflag.FlagSet) (opts server.Options, place func(error) error, err error) {
	place = func(err error) error { return err }
	var problems []error
	if f.config != "" {
		file, err := config.Read(f.config)
		if err != nil {
			return opts, place, err
		}
		place = func(err error) error { return locate(file.Top, err) }
		problems = append(problems, file.Top.Apply(fl, routesKey), f.routes.read(file.Top))
	}
	log, err := f.p.logger(f.log, false)
	problems = append(problems, place(err))
	opts, err = f.options(log)
	problems = append(problems, place(err))
	return opts, place, config.Join(problems...)
}

// gcPercent keeps the heap of a server dense: thousands of agents that connect
// at once leave as much garbage between their sessions as they may, which stays
// in memory for as long as those live. The data path allocates next to nothing,
// so that it costs no CPU time that can be measured.
const gcPercent = 50

func (f *serverFlags) run(ctx context.Context, fl *pflag.FlagSet) error {
	if f.p.getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	given := givenFlags(fl)
	opts, place, err := f.settings(fl)
	if err != nil {
		return err
	}
	opts.Reload = append(opts.Reload, server.Reloader{Name: "settings", Prepare: f.prepare(fl, given, opts)})
	return place(f.runWith(ctx, opts))
}

// prepare returns what looks at the settings anew: it finds mistakes in the
// config file, before anything else is reloaded, and says which settings do not
// change before a restart. given are the flags that go before the file.
func (f *serverFlags) prepare(now *pflag.FlagSet, given []given, opts server.Options) func() (func(), error) {
	rules := opts.Policy
	return func() (func(), error) {
		fresh := serverFlags{p: f.p}
		next := pflag.NewFlagSet("server", pflag.ContinueOnError)
		fresh.add(next)
		if err := applyGiven(next, given); err != nil {
			return nil, err
		}
		changed, _, err := fresh.settings(next)
		if err != nil {
			return nil, err
		}
		setRoutes := func() {}
		if opts.RoutesFixed && changed.RoutesFixed {
			if setRoutes, err = f.running.PrepareRoutes(changed.Routes); err != nil {
				return nil, fmt.Errorf("%s: %w", routesKey, err)
			}
		}
		return func() {
			setRoutes()
			if !reflect.DeepEqual(rules, changed.Policy) && f.running.SetPolicy(changed.Policy) == nil {
				rules = changed.Policy
			}
			f.running.SetPorts(changed.TCPPorts, changed.UDPPorts)
			forwards := f.running.SetForward(changed.Forward) == nil
			names := slices.DeleteFunc(differing(now, next), func(name string) bool {
				return now.Lookup(name).Annotations[ruleAnnotation] != nil ||
					name == "tcp-ports" || name == "udp-ports" || name == "forward" && forwards
			})
			if opts.RoutesFixed != changed.RoutesFixed {
				names = append(names, routesKey)
			}
			if len(names) > 0 {
				opts.Logger.Warn("settings have changed that a restart is needed for", "settings", strings.Join(names, ", "))
			}
		}, nil
	}
}

// runWith runs the server of the flags, whose options are opts.
func (f *serverFlags) runWith(ctx context.Context, opts server.Options) error {
	log := opts.Logger
	secret, path, created, err := f.secret()
	if err != nil {
		return err
	}
	if err := f.identity.apply(&opts, path, f.dataDir, f.tls.agentCA, log); err != nil {
		return err
	}
	operators, err := f.ops.open(&opts, f.dataDir)
	if err != nil {
		return err
	}
	s, err := server.New(opts)
	if err != nil {
		operators.close()
	}
	if err != nil {
		return f.notListening(optionError(err))
	}
	f.running = s
	log.Info("server started", startedAt(s)...)
	if file := s.DevAuthority(); file != "" {
		log.Warn("certificates are for development: nobody trusts them who is not told to", "authority", file)
	}
	f.p.greet(s, secret, path, created)
	f.p.warnOfDevTLS(s)
	defer f.p.reloading(ctx, "", func(string) { s.Reload() })()
	defer f.p.supervise(ctx, "serving "+s.URL())()
	return f.ops.run(ctx, s, operators)
}

// options turns the flags into the server's options, but for its credentials.
func (f *serverFlags) options(log *slog.Logger) (opts server.Options, err error) {
	opts = server.Options{
		Listen:    f.listen,
		Domain:    strings.ToLower(strings.TrimSuffix(f.domain, ".")),
		PathMode:  f.pathMode || f.domain == "",
		PublicURL: f.publicURL,
		Hold:      f.hold,
		Grace:     f.grace,
		Logger:    log,

		Routes:      f.routes.rules,
		RoutesFixed: f.routes.given,
		RouteFile:   filepath.Join(f.dataDir, routeFile),
	}
	var problems []error
	wrong := func(err error) { problems = append(problems, err) }
	for name, d := range map[string]time.Duration{"hold": f.hold, "grace": f.grace, "resume-window": f.resumeWindow} {
		if d < 0 || d > 24*time.Hour {
			wrong(usagef("--%s %v: 0s to 24h are allowed", name, d))
		}
	}
	if f.hold == 0 {
		opts.Hold = -1
	}
	if f.grace == 0 {
		opts.Grace = -1
	}
	if f.listen != noListen {
		wrong(checkAddress("listen", f.listen))
	}
	opts.TCPPorts, err = parsePorts("tcp-ports", f.tcpPorts)
	wrong(err)
	opts.UDPPorts, err = parsePorts("udp-ports", f.udpPorts)
	wrong(err)
	f.doctor.apply(&opts)
	opts.TrustedProxies, err = parsePrefixes("trusted-proxies", f.trustedProxies)
	wrong(err)
	wrong(f.policy.apply(&opts))
	wrong(f.forward.apply(&opts))
	wrong(f.tls.apply(&opts, f.dataDir))
	wrong(f.quic.apply(&opts))
	wrong(f.identity.check(f.tls.agentCA))
	wrong(f.ops.apply(&opts, f.dataDir))
	if f.memory < 1 || f.memory > 1<<20 {
		wrong(usagef("--buffer-memory %d: 1 to %d MiB are allowed", f.memory, 1<<20))
	}
	if f.p.getenv(envToken) != "" {
		wrong(usagef("the environment has %s, which is for agents: the server's secret goes into --secret-file", envToken))
	}
	if err := config.Join(problems...); err != nil {
		return opts, err
	}
	so := session.Options{
		ResumeWindow: f.resumeWindow,
		Budget:       f.ops.newBudget(f.memory << 20),
		Software:     "adit " + versionString(),
	}
	if f.resumeWindow == 0 {
		so.ResumeWindow = -1
	}
	opts.Dialects = []dialect.Dialect{
		native.New(native.Options{Session: so, Forwards: f.forward.streams(), Logger: log}),
	}
	if err := f.websocktunnel.apply(&opts); err != nil {
		return opts, err
	}
	if err := f.wstunnel.apply(&opts); err != nil {
		return opts, err
	}
	if err := f.forest.apply(&opts); err != nil {
		return opts, err
	}
	return opts, f.check(opts)
}

// check finds what server.New would refuse, before anything is made or opened.
func (f *serverFlags) check(opts server.Options) (err error) {
	if opts.Auth, err = auth.NewAuthenticator(auth.Options{}); err != nil { // the right one comes later
		return err
	}
	opts.ReservedIDs = f.identity.reserved
	return optionError(server.Check(opts))
}

// notListening says what helps if a port cannot be opened.
func (f *serverFlags) notListening(err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "listen" || op.Addr == nil {
		return err
	}
	flag := "--listen"
	if op.Net == "udp" {
		flag = "--quic-listen"
	} else if _, port, _ := net.SplitHostPort(op.Addr.String()); !strings.HasSuffix(f.listen, ":"+port) {
		flag = "--tls-listen"
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: another program has the port, which may be an adit server: %s takes another one", err, flag)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: ports below 1024 are not for every user: %s takes another one, and adit service install a user who may", err, flag)
	}
	return err
}

// optionError says which flag an option is wrong by.
func optionError(err error) error {
	oe, ok := errors.AsType[*server.OptionError](err)
	if !ok {
		return err
	}
	flag := map[string]string{
		"Domain":      "--domain: ",
		"PublicURL":   "--public-url: ",
		"ReservedIDs": "--reserved-ids: ",
		"Routes":      "",

		"QUICListen":   "--quic-listen: ",
		"TLS.Listen":   "--tls-listen: ",
		"TLS.DevDir":   "--dev-tls: ",
		"TLS.Redirect": "--redirect-http: ",
	}[oe.Field]
	return usagef("%s%s", flag, oe.Reason)
}

// secret loads the secret, or makes it at the first start.
func (f *serverFlags) secret() (s auth.Secret, path string, created bool, err error) {
	if f.secretFile != "" {
		if s, err = auth.LoadSecret(f.secretFile); err != nil {
			err = fmt.Errorf("--secret-file: %w", err)
		}
		return s, f.secretFile, false, err
	}
	s, created, err = auth.LoadOrCreateSecret(f.dataDir)
	return s, filepath.Join(f.dataDir, "secret"), created, err
}

// greet says where the server is and, if its secret is new, how to connect the
// first agent. The secret itself is only shown to a person.
func (p *program) greet(s *server.Server, secret auth.Secret, path string, created bool) {
	if !created {
		return
	}
	fmt.Fprintf(p.out, "%s\n\nA new secret is in %s.\n\n", s.URL(), path)
	fmt.Fprintf(p.out, "Expose a service of this machine:\n\n    adit http 3000%s\n\n", p.localFlags(s, path))
	url := agentURL(s)
	var copies []string // of files that another machine needs
	flags := ""
	if file := s.DevAuthority(); file != "" && strings.HasPrefix(url, "wss:") {
		copies, flags = append(copies, file), " --ca-file "+filepath.Base(file)
	}
	switch {
	case url == "": // nobody else reaches it
	case p.person:
		with := ""
		if len(copies) > 0 {
			with = ", with a copy of " + copies[0]
		}
		fmt.Fprintf(p.out, "Or of another one%s (the line holds the secret: keep it to yourself):\n\n", with)
		fmt.Fprintf(p.out, "    %s=%s adit http 3000 --server %s%s\n\n", envToken, secret.Reveal(), url, flags)
	default:
		copies = append([]string{path}, copies...)
		fmt.Fprintf(p.out, "Or of another one, with a copy of %s:\n\n", strings.Join(copies, " and "))
		fmt.Fprintf(p.out, "    adit http 3000 --server %s --secret-file FILE%s\n\n", url, flags)
	}
}

// localFlags are what an agent on this machine has to be told.
func (p *program) localFlags(s *server.Server, path string) string {
	flags := ""
	host, addr, scheme := "localhost", s.Addr(), "ws"
	if !addr.IsValid() || s.Redirects() {
		addr, scheme = s.TLSAddr(), "wss"
	}
	if a := addr.Addr(); !a.IsUnspecified() {
		host = a.Unmap().String()
	}
	if at := scheme + "://" + net.JoinHostPort(host, strconv.Itoa(int(addr.Port()))); at != "ws://localhost:8080" && at != "ws://127.0.0.1:8080" {
		flags += " --server " + at
	}
	if file := s.DevAuthority(); file != "" && scheme == "wss" {
		flags += " --ca-file " + shellQuote(file)
	}
	if path != filepath.Join(p.dataDir(), "secret") {
		flags += " --secret-file " + shellQuote(path)
	}
	return flags
}

// agentURL is where an agent on another machine finds the server, and empty if
// it cannot.
func agentURL(s *server.Server) string {
	u, err := url.Parse(s.URL())
	if err != nil {
		return ""
	}
	u.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !a.IsLoopback()) {
		return u.String()
	}
	addr, scheme := s.Addr(), "ws"
	if u.Scheme == "wss" {
		addr, scheme = s.TLSAddr(), "wss"
	}
	if !addr.Addr().IsUnspecified() {
		return ""
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() && ip.IP.To4() != nil {
			return fmt.Sprintf("%s://%s:%d", scheme, ip.IP, addr.Port())
		}
	}
	return ""
}

func parsePorts(flag string, list []string) ([]ingress.PortRange, error) {
	var ports []ingress.PortRange
	var problems []error
	for _, p := range list {
		r, err := auth.ParsePortRange(p)
		if err != nil {
			problems = append(problems, usagef("--%s: %v", flag, err))
		}
		ports = append(ports, ingress.PortRange(r))
	}
	return ports, config.Join(problems...)
}
