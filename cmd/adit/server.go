package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/ingress"
	"adit/server"
	"adit/session"
)

// serverFlags are the flags of adit server.
type serverFlags struct {
	listen         string
	domain         string
	pathMode       bool
	publicURL      string
	dataDir        string
	secretFile     string
	tcpPorts       []string
	trustedProxies []string
	hold           time.Duration
	resumeWindow   time.Duration
	memory         int64
	log            logFlags
}

func serverCommand() *cobra.Command {
	var f serverFlags
	c := &cobra.Command{
		Use:   "server",
		Short: "Run the public server",
		Long: "Run the server that visitors and agents connect to, both at --listen.\n\n" +
			"The first start makes a secret in --data-dir. Agents need it, or a token signed\n" +
			"with it; without either nobody can expose anything.",
		Example: "  adit server\n" +
			"  adit server --listen :80 --domain tunnel.example.com --tcp-ports 2000-2999",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c.Context(), c.OutOrStdout()) },
	}
	fl := c.Flags()
	fl.StringVar(&f.listen, "listen", ":8080", "address for visitors and agents")
	fl.StringVar(&f.domain, "domain", "", "domain below which each ID has a hostname: <id>.<domain>")
	fl.BoolVar(&f.pathMode, "path-mode", false, "serve each ID at /<id>/ too (always so without --domain)")
	fl.StringVar(&f.publicURL, "public-url", "", "how --listen is reached from outside, such as https://tunnel.example.com")
	fl.StringVar(&f.dataDir, "data-dir", defaultDataDir(), "folder for what must last")
	fl.StringVar(&f.secretFile, "secret-file", "", "file with the secret, instead of the one in --data-dir")
	fl.StringSliceVar(&f.tcpPorts, "tcp-ports", nil, "public TCP ports for agents, such as 2222,3000-3999 (default none)")
	fl.StringSliceVar(&f.trustedProxies, "trusted-proxies", nil, "addresses or prefixes whose X-Forwarded-* are kept")
	fl.DurationVar(&f.hold, "hold", 30*time.Second, "how long visitors wait for an agent that is away")
	fl.DurationVar(&f.resumeWindow, "resume-window", time.Minute, "how long streams wait for an agent that lost its connection")
	fl.Int64Var(&f.memory, "buffer-memory", 512, "MiB that all agents' send buffers may take together")
	f.log.add(fl)
	return c
}

// defaultDataDir is the state directory of the XDG base directory
// specification, or systemd's for a service.
func defaultDataDir() string {
	if dir := os.Getenv("STATE_DIRECTORY"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "adit")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "adit-data"
	}
	return filepath.Join(home, ".local", "state", "adit")
}

func (f *serverFlags) run(ctx context.Context, out io.Writer) error {
	terminal := isTerminal(os.Stderr)
	log, err := f.log.logger(os.Stderr, terminal)
	if err != nil {
		return err
	}
	opts := server.Options{
		Listen:    f.listen,
		Domain:    strings.ToLower(strings.Trim(f.domain, ".")),
		PathMode:  f.pathMode || f.domain == "",
		PublicURL: f.publicURL,
		Hold:      f.hold,
		Logger:    log,
	}
	if f.hold <= 0 {
		opts.Hold = -1
	}
	if opts.TCPPorts, err = parsePorts(f.tcpPorts); err != nil {
		return err
	}
	if opts.TrustedProxies, err = parsePrefixes(f.trustedProxies); err != nil {
		return err
	}
	if f.memory < 1 {
		return usagef("--buffer-memory %d: at least 1", f.memory)
	}
	secret, path, created, err := f.secret()
	if err != nil {
		return err
	}
	if opts.Auth, err = auth.NewAuthenticator(auth.Options{Secrets: []auth.Secret{secret}}); err != nil {
		return err
	}
	so := session.Options{
		ResumeWindow: f.resumeWindow,
		Budget:       session.NewBudget(f.memory << 20),
		Software:     "adit " + versionString(),
	}
	if f.resumeWindow <= 0 {
		so.ResumeWindow = -1
	}
	opts.Dialects = []dialect.Dialect{
		native.New(native.Options{Session: so, Logger: log}),
	}
	s, err := server.New(opts)
	if err != nil {
		return err
	}
	log.Info("server started", "listen", s.Addr().String(), "url", s.URL())
	if created {
		printWelcome(out, s, secret, path, isTerminal(os.Stdout))
	}
	return s.Run(ctx)
}

// secret loads the secret, or makes it at the first start.
func (f *serverFlags) secret() (s auth.Secret, path string, created bool, err error) {
	if f.secretFile != "" {
		s, err = auth.LoadSecret(f.secretFile)
		return s, f.secretFile, false, err
	}
	s, created, err = auth.LoadOrCreateSecret(f.dataDir)
	return s, filepath.Join(f.dataDir, "secret"), created, err
}

// printWelcome tells how to connect the first agent. The secret itself is only
// shown to a person.
func printWelcome(w io.Writer, s *server.Server, secret auth.Secret, path string, person bool) {
	url := agentURL(s)
	fmt.Fprintf(w, "\nA new secret is in %s.\n\nExpose a service of this machine:\n\n", path)
	fmt.Fprintf(w, "    adit http 3000%s\n\n", localFlags(s, path))
	if person {
		fmt.Fprintf(w, "Or of another one (keep the line to yourself, it holds the secret):\n\n")
		fmt.Fprintf(w, "    ADIT_TOKEN=%s adit http 3000 --server %s\n\n", secret.Reveal(), url)
		return
	}
	fmt.Fprintf(w, "Or of another one, with a copy of that file:\n\n")
	fmt.Fprintf(w, "    adit http 3000 --server %s --secret-file FILE\n\n", url)
}

// localFlags are what an agent on this machine has to be told.
func localFlags(s *server.Server, path string) string {
	flags := ""
	if port := s.Addr().Port(); port != 8080 {
		flags += fmt.Sprintf(" --server ws://localhost:%d", port)
	}
	if path != filepath.Join(defaultDataDir(), "secret") {
		flags += " --secret-file " + path
	}
	return flags
}

// agentURL is where an agent on another machine finds the server.
func agentURL(s *server.Server) string {
	u := strings.Replace(s.URL(), "http", "ws", 1)
	if !strings.Contains(u, "://localhost") {
		return u
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() && ip.IP.To4() != nil {
			return fmt.Sprintf("ws://%s:%d", ip.IP, s.Addr().Port())
		}
	}
	return u
}

func parsePorts(list []string) ([]ingress.PortRange, error) {
	var ports []ingress.PortRange
	for _, p := range list {
		r, err := auth.ParsePortRange(p)
		if err != nil {
			return nil, usagef("--tcp-ports: %v", err)
		}
		ports = append(ports, ingress.PortRange(r))
	}
	return ports, nil
}

func parsePrefixes(list []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return nil, usagef("--trusted-proxies %q: want an address such as 10.0.0.1 or a prefix such as 10.0.0.0/8", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, nil
}
