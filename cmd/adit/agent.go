package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"adit/agent"
	"adit/dialect"
	"adit/dialect/native"
	"adit/session"
	"adit/tunnel"
)

const (
	maxInstance = 128       // bytes, as the server takes them
	sendMemory  = 256 << 20 // bytes that all sessions of an agent may buffer together
)

// agentFlags are the flags of commands that run an agent.
type agentFlags struct {
	p          *program
	server     string
	secretFile string
	caFile     string
	instance   string
	log        logFlags
	screen     screenFlags
}

func (f *agentFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.server, "server", "ws://localhost:8080", "URL of the server: ws:// or, with TLS, wss://")
	fl.StringVar(&f.secretFile, "secret-file", "", "file with the secret or token; without it "+envToken+", or the secret of a server on this machine")
	fl.StringVar(&f.caFile, "ca-file", "", "file with certificates of authorities to trust for wss://, besides the system's")
	fl.StringVar(&f.instance, "instance", "", "tells agents with one ID apart (default this machine and upstream)")
	f.log.add(fl, true)
	f.screen.add(fl)
}

func (p *program) agentCommand() *cobra.Command {
	f := agentFlags{p: p}
	rules := policyFlags{p: p}
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
			for i := range tunnels {
				if err := rules.apply(&tunnels[i]); err != nil {
					return err
				}
			}
			d, err := p.newDisplay(f.screen, f.log)
			if err != nil {
				return err
			}
			return f.runAll(c.Context(), d, tunnels, apart)
		},
	}
	c.Flags().StringArrayVar(&specs, "tunnel", nil, "a tunnel; may be given several times")
	c.Flags().BoolVar(&apart, "session-per-tunnel", false, "give each tunnel a connection to the server of its own")
	rules.addHTTP(c.Flags())
	f.add(c.Flags())
	return c
}

func parseTunnels(specs []string) ([]agent.Tunnel, error) {
	if len(specs) == 0 {
		return nil, usagef("--tunnel is missing: want at least one ID=UPSTREAM")
	}
	type address struct {
		id   tunnel.ID
		kind dialect.Kind
		port uint16
	}
	seen := make(map[address]bool)
	tunnels := make([]agent.Tunnel, len(specs))
	for i, spec := range specs {
		t, err := parseTunnel(spec)
		if err != nil {
			return nil, usagef("--tunnel %q: %v", spec, err)
		}
		at := address{t.ID, t.Kind, t.Port}
		if seen[at] && (t.Kind == dialect.HTTP || t.Port != 0) {
			return nil, usagef("--tunnel %q: the ID %q stands for this twice", spec, t.ID)
		}
		seen[at] = true
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

// runAll runs an agent with all tunnels, or one for each.
func (f *agentFlags) runAll(ctx context.Context, d *display, tunnels []agent.Tunnel, apart bool) error {
	if err := checkServer(f.server); err != nil {
		return err
	}
	if n := len(f.instance); n > maxInstance {
		return usagef("--instance has %d bytes: at most %d are allowed", n, maxInstance)
	}
	trust, err := tlsConfig(f.caFile)
	if err != nil {
		return err
	}
	token, err := f.p.credential(f.secretFile)
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
	stop, err := d.start(ctx, f.server)
	if err != nil {
		return err
	}
	defer stop()
	defer f.p.serveReports(d.board, d.log)()
	defer f.p.supervise(ctx, "serving the tunnels of "+f.server)()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	budget := session.NewBudget(sendMemory)
	errs := make([]error, len(groups))
	var wg sync.WaitGroup
	for i, g := range groups {
		wg.Go(func() {
			opts := agent.Options{
				Server:   f.server,
				Token:    token,
				Tunnels:  g,
				Instance: f.instance,
				TLS:      trust,
				Session: native.SessionOptions{
					Session: session.Options{Budget: budget, Software: "adit " + versionString()},
				},
			}
			d.join(&opts)
			errs[i] = agent.Run(ctx, opts)
			if errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if be := (*dialect.BindError)(nil); errors.As(err, &be) {
			return fmt.Errorf("refused: %s", reason(err))
		} else if err != nil {
			return err
		}
	}
	return nil
}

// patience tells a person why the program does not end at once after ctx has.
// The function that it returns ends it.
func (p *program) patience(ctx context.Context) (done func()) {
	if !p.person {
		return func() {}
	}
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-over:
			return
		}
		wait := time.NewTimer(500 * time.Millisecond)
		defer wait.Stop()
		select {
		case <-wait.C:
			fmt.Fprintln(p.out, "giving visitors some seconds to finish; Ctrl-C ends at once")
		case <-over:
		}
	})
	return func() {
		close(over)
		wg.Wait()
	}
}
