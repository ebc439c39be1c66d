package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"adit/agent"
	"adit/config"
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
	credential credentialFlags
	caFile     string
	out        wayOutFlags
	conns      connectionFlags
	carrier    carrierFlags
	instance   string
	log        logFlags
	screen     screenFlags
	admin      adminFlags

	shown credential // after options
}

func (f *agentFlags) add(fl *pflag.FlagSet) {
	f.addServer(fl)
	fl.StringVar(&f.instance, "instance", "", "tells agents with one ID apart (default this machine and upstream)")
	f.screen.add(fl)
	f.admin.p = f.p
	f.admin.add(fl)
}

// addServer adds the flags of every command that connects to a server.
func (f *agentFlags) addServer(fl *pflag.FlagSet) {
	fl.StringVar(&f.server, "server", "ws://localhost:8080", "URL of the server: ws:// or, with TLS, wss://")
	f.credential.add(fl)
	fl.StringVar(&f.caFile, "ca-file", "", "file with certificates of authorities to trust for wss://, besides the system's")
	f.out.add(fl)
	f.conns.add(fl)
	f.carrier.add(fl)
	f.log.add(fl, true)
}

// severalFlags are the flags of adit agent.
type severalFlags struct {
	agentFlags
	config string
	specs  []string
	apart  bool
	rules  policyFlags

	forwards localForwardFlags
}

func newSeveralFlags(p *program) severalFlags {
	return severalFlags{agentFlags: agentFlags{p: p}, rules: policyFlags{p: p}}
}

func (f *severalFlags) add(fl *pflag.FlagSet) {
	addConfig(fl, &f.config, "file with settings in YAML: its keys are the flags here, without the dashes, and tunnels")
	fl.StringArrayVar(&f.specs, "tunnel", nil, "a tunnel; may be given several times")
	f.agentFlags.add(fl)
	fl.BoolVar(&f.apart, "session-per-tunnel", false, "give each tunnel a connection to the server of its own")
	f.rules.addHTTP(fl)
	f.forwards.add(fl)
}

func (p *program) agentCommand() *cobra.Command {
	f := newSeveralFlags(p)
	c := &cobra.Command{
		Use:   "agent --config FILE",
		Short: "Expose several services",
		Long: "Expose several services at once: those of a config file, or of --tunnel flags.\n\n" +
			"The file is read again when it changes, or on SIGHUP, and no stream is lost over\n" +
			"that. A tunnel of a flag is ID=http://host:port, or ID=tcp://host:port@PUBLICPORT\n" +
			"for TCP (without @PUBLICPORT the server chooses), the same with udp:// for UDP, or\n" +
			"ID=tls://host:port for what ends TLS itself.",
		Example: "  adit agent --config adit.yaml\n" +
			"  adit agent --tunnel web=http://localhost:3000 --tunnel ssh=tcp://localhost:22@2222",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			given := givenFlags(c.Flags())
			if f.config != "" {
				return f.runFile(c.Context(), c.Flags(), given)
			}
			d, err := p.newDisplay(f.screen, f.log)
			if err != nil {
				return err
			}
			tunnels, err := parseTunnels(f.specs)
			if err != nil {
				return err
			}
			for i := range tunnels {
				if err := f.rules.apply(&tunnels[i]); err != nil {
					return err
				}
			}
			return f.runAll(c.Context(), d, tunnels)
		},
	}
	f.add(c.Flags())
	return c
}

// settings reads the config file. Flags of fl that are not set are set from it.
// d is how all is shown, and made if it is nil.
func (f *severalFlags) settings(fl *pflag.FlagSet, tf *tunnelFile, d *display) (_ *display, opts agent.Options, tunnels []agent.Tunnel, err error) {
	file, err := config.Read(f.config)
	if err != nil {
		return d, opts, nil, err
	}
	problems := []error{file.Top.Apply(fl, tunnelsKey)}
	wrong := func(err error) { problems = append(problems, locate(file.Top, err)) }
	if len(f.specs) > 0 {
		wrong(usagef("--tunnel: with --config the tunnels are in the file, under %s", tunnelsKey))
	}
	if d == nil {
		d, err = f.p.newDisplay(f.screen, f.log)
		wrong(err)
	}
	if d != nil {
		tf.log = d.log
	}
	tunnels, err = tf.tunnels(file.Top, fl)
	wrong(err)
	_, err = f.forwards.specs()
	wrong(err)
	f.credential.dropForEnvironment(f.p, file.Top)
	opts, err = f.options()
	wrong(err)
	return d, opts, tunnels, config.Join(problems...)
}

// runFile runs the agent of a config file. given are the flags that go before
// it.
func (f *severalFlags) runFile(ctx context.Context, fl *pflag.FlagSet, given []given) error {
	file := tunnelFile{p: f.p}
	d, opts, tunnels, err := f.settings(fl, &file, nil)
	if err != nil {
		return err
	}
	updates := make(chan []agent.Tunnel)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reload := func() error {
		fresh := newSeveralFlags(f.p)
		next := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		fresh.add(next)
		if err := applyGiven(next, given); err != nil {
			return err
		}
		_, _, tunnels, err := fresh.settings(next, &file, d)
		if err != nil {
			return err
		}
		inTunnels := f.p.tunnelSettings()
		names := slices.DeleteFunc(differing(fl, next), func(name string) bool { return inTunnels[name] })
		if len(names) > 0 {
			d.log.Warn("settings have changed that a restart is needed for", "settings", strings.Join(names, ", "))
		}
		select {
		case updates <- tunnels:
		case <-ctx.Done():
		}
		return nil
	}
	stop := f.p.reloading(ctx, f.config, func(why string) {
		d.log.Info("reloading", "reason", why)
		problems := config.Problems(reload())
		for _, err := range problems {
			d.log.Error("not reloaded: everything stays as it was", "err", err)
		}
		if len(problems) == 0 {
			d.log.Info("reloaded", "what", "tunnels")
		}
	})
	defer stop()
	return f.runFleet(ctx, d, opts, tunnels, updates)
}

func parseTunnels(specs []string) ([]agent.Tunnel, error) {
	if len(specs) == 0 {
		return nil, usagef("--tunnel is missing: want at least one ID=UPSTREAM, or --config")
	}
	seen := make(map[address]bool)
	tunnels := make([]agent.Tunnel, len(specs))
	for i, spec := range specs {
		t, err := parseTunnel(spec)
		if err != nil {
			return nil, usagef("--tunnel %q: %v", spec, err)
		}
		at := addressOf(t)
		if seen[at] && at.fixed() {
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
	if rest, ok := strings.CutPrefix(upstream, "tls://"); ok {
		t.Kind = dialect.TLS
		upstream = "tcp://" + rest
	} else if scheme, _, _ := strings.Cut(upstream, "://"); scheme == "tcp" || scheme == "udp" {
		t.Kind = dialect.Kind(scheme)
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

// options returns what all agents of the flags have in common.
func (f *agentFlags) options() (opts agent.Options, err error) {
	opts = agent.Options{
		Server:   f.server,
		Instance: f.instance,
		Session: native.SessionOptions{
			Session: session.Options{Budget: session.NewBudget(sendMemory), Software: "adit " + versionString()},
		},
	}
	problems := []error{checkServer(f.server)}
	if n := len(f.instance); n > maxInstance {
		problems = append(problems, usagef("--instance has %d bytes: at most %d are allowed", n, maxInstance))
	}
	opts.TLS, err = tlsConfig(f.caFile)
	problems = append(problems, err)
	problems = append(problems, f.out.apply(f.p, &opts), f.conns.apply(&opts), f.carrier.apply(f.p, &opts))
	f.shown, err = f.credential.open(f.p, f.server)
	problems = append(problems, err)
	return opts, config.Join(problems...)
}

// runOne runs an agent with one tunnel.
func (f *agentFlags) runOne(ctx context.Context, d *display, t agent.Tunnel) error {
	several := severalFlags{agentFlags: *f}
	return several.runAll(ctx, d, []agent.Tunnel{t})
}

// runAll runs agents with tunnels that stay as they are.
func (f *severalFlags) runAll(ctx context.Context, d *display, tunnels []agent.Tunnel) error {
	opts, err := f.options()
	if err != nil {
		return err
	}
	return f.runFleet(ctx, d, opts, tunnels, nil)
}

// runFleet runs an agent with all tunnels, or one for each.
func (f *severalFlags) runFleet(ctx context.Context, d *display, opts agent.Options, tunnels []agent.Tunnel, updates <-chan []agent.Tunnel) error {
	if err := f.shown.wait(ctx, d.log); err != nil {
		return err
	}
	stop, err := d.start(ctx, f.server)
	if err != nil {
		return err
	}
	defer stop()
	unserve, err := f.serveAdmin(d, opts.Session.Session.Budget)
	if err != nil {
		return err
	}
	defer unserve()
	defer f.p.serveReports(d.board, d.log)()
	defer f.p.supervise(ctx, "serving the tunnels of "+f.server)()
	f.out.warn(f.p, d.log)
	forwarding := opts
	f.shown.apply(&forwarding)
	stopForwards, err := f.forwards.start(ctx, forwarding, d.log)
	if err != nil {
		return err
	}
	defer stopForwards()
	all := fleet{
		apart: f.apart,
		log:   d.log,
		options: func(tunnels []agent.Tunnel) (agent.Options, func()) {
			o := opts
			o.Tunnels = tunnels
			if f.config != "" && f.instance == "" {
				o.Instance = instanceOf(f.config)
				if f.apart {
					o.Instance += fmt.Sprintf(" %s %s", tunnels[0].ID, tunnels[0].Upstream)
					o.Instance = o.Instance[:min(len(o.Instance), maxInstance)]
				}
			}
			leave := d.join(&o)
			f.shown.apply(&o)
			return o, leave
		},
	}
	return all.run(ctx, tunnels, updates)
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
			fmt.Fprintln(p.out, "giving connections some seconds to finish; Ctrl-C ends at once")
		case <-over:
		}
	})
	return func() {
		close(over)
		wg.Wait()
	}
}
