package main

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/session"
	"adit/tunnel"
)

// agentFlags are the flags of commands that run an agent.
type agentFlags struct {
	server     string
	secretFile string
	instance   string
	log        logFlags
}

func (f *agentFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.server, "server", "ws://localhost:8080", "URL of the server: ws://, wss://")
	fl.StringVar(&f.secretFile, "secret-file", "", "file with the secret or token; without it "+envToken+", or the secret of a server on this machine")
	fl.StringVar(&f.instance, "instance", "", "tells agents with one ID apart (default this machine and upstream)")
	f.log.add(fl)
}

func httpCommand() *cobra.Command {
	var f agentFlags
	var id string
	c := &cobra.Command{
		Use:   "http UPSTREAM",
		Short: "Expose an HTTP service",
		Long: "Expose an HTTP service that this machine reaches. UPSTREAM is a port of this\n" +
			"machine, host:port, http://host:port, https://host or unix:/path.",
		Example: "  adit http 3000\n  adit http app.internal:8000 --id app --server wss://tunnel.example.com",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.run(c, dialect.HTTP, args[0], id, 0)
		},
	}
	c.Flags().StringVar(&id, "id", "", "name of the tunnel (default made of this machine's name and the port)")
	f.add(c.Flags())
	return c
}

func tcpCommand() *cobra.Command {
	var f agentFlags
	var id string
	var port uint16
	c := &cobra.Command{
		Use:   "tcp UPSTREAM",
		Short: "Expose a TCP service",
		Long: "Expose a TCP service that this machine reaches on a public port of the server.\n" +
			"UPSTREAM is a port of this machine, host:port or unix:/path.",
		Example: "  adit tcp 22 --port 2222\n  adit tcp db.internal:5432 --id db --server wss://tunnel.example.com",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.run(c, dialect.TCP, args[0], id, port)
		},
	}
	c.Flags().StringVar(&id, "id", "", "name of the tunnel (default made of this machine's name and the port)")
	c.Flags().Uint16Var(&port, "port", 0, "public TCP port (default one that the server chooses)")
	f.add(c.Flags())
	return c
}

// run runs an agent with one tunnel.
func (f *agentFlags) run(c *cobra.Command, kind dialect.Kind, upstream, id string, port uint16) error {
	up, err := agent.ParseUpstream(upstream)
	if err != nil {
		return usagef("%v", err)
	}
	if id == "" {
		id = defaultID(up.String())
	}
	if _, err := tunnel.ParseID(id); err != nil {
		return usagef("--id: %v", err)
	}
	t := agent.Tunnel{ID: tunnel.ID(id), Kind: kind, Port: port, Upstream: up}
	return f.runAll(c.Context(), c.OutOrStdout(), []agent.Tunnel{t}, false)
}

func agentCommand() *cobra.Command {
	var f agentFlags
	var specs []string
	var apart bool
	c := &cobra.Command{
		Use:   "agent --tunnel ID=UPSTREAM",
		Short: "Expose several services",
		Long: "Expose several services at once. A tunnel is ID=http://host:port, or\n" +
			"ID=tcp://host:port@PUBLICPORT for TCP (without @PUBLICPORT the server chooses).",
		Example: "  adit agent --tunnel web=http://localhost:3000 --tunnel ssh=tcp://localhost:22@2222",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			tunnels, err := parseTunnels(specs)
			if err != nil {
				return err
			}
			return f.runAll(c.Context(), c.OutOrStdout(), tunnels, apart)
		},
	}
	c.Flags().StringArrayVar(&specs, "tunnel", nil, "a tunnel; may be given several times")
	c.Flags().BoolVar(&apart, "session-per-tunnel", false, "give each tunnel a connection to the server of its own")
	f.add(c.Flags())
	return c
}

func parseTunnels(specs []string) ([]agent.Tunnel, error) {
	if len(specs) == 0 {
		return nil, usagef("--tunnel is missing: want at least one ID=UPSTREAM")
	}
	tunnels := make([]agent.Tunnel, len(specs))
	for i, spec := range specs {
		t, err := parseTunnel(spec)
		if err != nil {
			return nil, usagef("--tunnel %q: %v", spec, err)
		}
		tunnels[i] = t
	}
	return tunnels, nil
}

func parseTunnel(spec string) (t agent.Tunnel, err error) {
	id, upstream, ok := strings.Cut(spec, "=")
	if !ok {
		return t, errors.New("want ID=UPSTREAM")
	}
	if t.ID, err = tunnel.ParseID(id); err != nil {
		return t, err
	}
	t.Kind = dialect.HTTP
	if strings.HasPrefix(upstream, "tcp://") {
		t.Kind = dialect.TCP
		var port string
		if upstream, port, ok = strings.Cut(upstream, "@"); ok {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil || n == 0 {
				return t, fmt.Errorf("public port %q: 1 to 65535 are allowed", port)
			}
			t.Port = uint16(n)
		}
	}
	t.Upstream, err = agent.ParseUpstream(upstream)
	return t, err
}

// defaultID names a tunnel after this machine and the upstream's port; the
// digest keeps machines of the same name apart.
func defaultID(upstream string) string {
	host, _ := os.Hostname()
	machine, _ := os.ReadFile("/etc/machine-id")
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d %s", machine, host, os.Getuid(), upstream))
	digest := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:3]))[:4]
	host, _, _ = strings.Cut(host, ".")
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return -1
	}, host)
	if name == "" {
		name = "agent"
	}
	port := upstream[strings.LastIndexByte(upstream, ':')+1:]
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		port = "x"
	}
	return fmt.Sprintf("%.40s-%s-%s", name, port, digest)
}

// runAll runs an agent with all tunnels, or one for each.
func (f *agentFlags) runAll(ctx context.Context, out io.Writer, tunnels []agent.Tunnel, apart bool) error {
	log, err := f.log.logger(os.Stderr, isTerminal(os.Stderr))
	if err != nil {
		return err
	}
	token, err := f.credential()
	if err != nil {
		return err
	}
	groups := [][]agent.Tunnel{tunnels}
	if apart {
		groups = nil
		for i := range tunnels {
			groups = append(groups, tunnels[i:i+1])
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	budget := session.NewBudget(256 << 20)
	status := &statusPrinter{out: out, log: log}
	errs := make([]error, len(groups))
	var wg sync.WaitGroup
	for i, g := range groups {
		wg.Go(func() {
			errs[i] = agent.Run(ctx, agent.Options{
				Server:   f.server,
				Token:    token,
				Tunnels:  g,
				Instance: f.instance,
				Session: native.SessionOptions{
					Session: session.Options{Budget: budget, Software: "adit " + versionString()},
				},
				OnState: func(s agent.State) { status.show(g, s) },
				Logger:  log,
			})
			if errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// credential returns what reads the credential: the file again and again, so
// that it may be replaced.
func (f *agentFlags) credential() (func() (string, error), error) {
	if f.secretFile == "" && os.Getenv(envToken) != "" {
		token := strings.TrimSpace(os.Getenv(envToken))
		return func() (string, error) { return token, nil }, nil
	}
	path := f.secretFile
	if path == "" {
		path = filepath.Join(defaultDataDir(), "secret")
	}
	read := func() (string, error) {
		s, err := auth.LoadSecret(path)
		if err != nil {
			return "", err
		}
		return s.Reveal(), nil
	}
	_, err := read()
	if f.secretFile == "" && errors.Is(err, fs.ErrNotExist) {
		return nil, usagef("no credential: set %s, or --secret-file to a file with the server's secret or a token", envToken)
	}
	return read, err
}

// A statusPrinter tells a person where the agent stands.
type statusPrinter struct {
	out io.Writer
	log *slog.Logger

	mu sync.Mutex // held while printing
}

func (p *statusPrinter) show(tunnels []agent.Tunnel, s agent.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch s.Phase {
	case agent.Connected:
		for i, b := range s.Bound {
			for _, u := range b.URLs {
				fmt.Fprintf(p.out, "%s -> %s\n", u, tunnels[i].Upstream)
			}
		}
	case agent.Reconnecting:
		fmt.Fprintf(p.out, "reconnecting%s: %v\n", in(s.Wait), withoutURL(s.Err))
	case agent.Refused:
		fmt.Fprintf(p.out, "refused, trying again%s: %v\n", in(s.Wait), withoutURL(s.Err))
	}
}

func in(wait time.Duration) string {
	if wait < time.Second {
		return ""
	}
	return fmt.Sprintf(" in %.0f s", wait.Seconds())
}

// withoutURL shortens errors of net/url, which repeat the URL.
func withoutURL(err error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		return ue.Err
	}
	return err
}
