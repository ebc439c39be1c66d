package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"adit/agent"
	"adit/config"
	"adit/dialect"
	"adit/forward"
	"adit/tunnel"
)

// forwardFlags are the flags of adit forward.
type forwardFlags struct {
	agentFlags

	// of tunnels for R:
	id    string
	rules policyFlags
	socks socksFlags
}

func (f *forwardFlags) add(fl *pflag.FlagSet) {
	f.addServer(fl)
	fl.StringVar(&f.id, "id", "", "name of the tunnels for R: (default made of this machine's name and the port)")
	f.rules.addTCP(fl)
	f.socks.add(fl)
	f.screen.mode = "off"
}

func (p *program) forwardCommand() *cobra.Command {
	f := forwardFlags{agentFlags: agentFlags{p: p}, rules: policyFlags{p: p}}
	c := &cobra.Command{
		Use:   "forward FORWARD...",
		Short: "Reach other hosts through the server",
		Long: "Listen on this machine, and have the server connect each connection to a target.\n\n" +
			"FORWARD is LOCAL:TARGET. LOCAL is a port, host:port or unix:/path, and without a\n" +
			"host on loopback. TARGET is host:port, host:port/udp, unix:/path, or @ID/SERVICE for\n" +
			"what another agent offers (@ID/SERVICE/udp for datagrams); or socks, where connections say their targets themselves.\n" +
			"R:LOCAL:TARGET is the other way round: a public port of the server, which leads to\n" +
			"what this machine reaches, as with adit tcp and adit udp. A host in LOCAL is an\n" +
			"address of the server. R:socks, where connections say their targets themselves, is\n" +
			"on the server's loopback; elsewhere it takes --allow-ip.\n\n" +
			"Names are resolved on the server, which connects only where its --forward and the\n" +
			"token allow.",
		Example: "  adit forward 5432:db.internal:5432\n" +
			"  adit forward 2222:@office/ssh 5353:10.0.0.2:53/udp unix:/tmp/db:db.internal:5432\n" +
			"  adit forward R:127.0.0.1:2222:localhost:22 R:5353:localhost:53/udp R:socks",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			specs, err := parseForwards(args)
			if err != nil {
				return err
			}
			return f.run(c.Context(), specs)
		},
	}
	f.add(c.Flags())
	return c
}

func (p *program) socksCommand() *cobra.Command {
	f := forwardFlags{agentFlags: agentFlags{p: p}}
	c := &cobra.Command{
		Use:   "socks [LOCAL]",
		Short: "Reach other hosts with SOCKS5 or HTTP CONNECT",
		Long: "Listen on this machine for programs that speak SOCKS5, also for UDP, or HTTP CONNECT,\n" +
			"and have the server connect them to the targets that they name. LOCAL is a port, by\n" +
			"default 1080, host:port or unix:/path, and without a host on loopback: whoever\n" +
			"reaches the port may go wherever the server lets this agent go.",
		Example:           "  adit socks 1080\n  curl --proxy socks5h://localhost:1080 http://wiki.internal/",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			spec, err := forward.ParseSpec(strings.Join(append(args, "socks"), ":"))
			if err != nil {
				return usagef("LOCAL %q: want a port from 1 to 65535, host:port or unix:/path", args[0])
			}
			return f.run(c.Context(), []forward.Spec{spec})
		},
	}
	f.addServer(c.Flags())
	f.screen.mode = "off"
	return c
}

func (p *program) stdioCommand() *cobra.Command {
	f := agentFlags{p: p}
	c := &cobra.Command{
		Use:   "stdio TARGET",
		Short: "Connect standard input and output to another host",
		Long: "Have the server connect to a target, and connect that to standard input and output.\n" +
			"TARGET is host:port, unix:/path, or @ID/SERVICE for what another agent offers.",
		Example: "  ssh -o ProxyCommand='adit stdio %h:%p' build.internal\n  ssh -o ProxyCommand='adit stdio @office/ssh' office\n" +
			"  adit stdio db.internal:5432",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			target, err := forward.ParseTarget(args[0])
			if err != nil {
				return usagef("%v", err)
			}
			return f.runStdio(c.Context(), target)
		},
	}
	f.addServer(c.Flags())
	// ssh shows what is printed: without --log-level that is the reason alone.
	f.log.level = "error"
	c.Flags().Lookup("log-level").DefValue = f.log.level
	return c
}

// parseForwards parses forwards that listen, or are reverse.
func parseForwards(texts []string) ([]forward.Spec, error) {
	specs := make([]forward.Spec, len(texts))
	for i, text := range texts {
		var err error
		if specs[i], err = forward.ParseSpec(text); err != nil {
			return nil, usagef("%v", err)
		}
		if specs[i].Kind == forward.Stdio && len(texts) > 1 {
			return nil, usagef("forward %q: standard input and output can only go to one target, with no other forward beside it", text)
		}
	}
	return specs, nil
}

// run forwards until ctx ends.
func (f *forwardFlags) run(ctx context.Context, specs []forward.Spec) error {
	if specs[0].Kind == forward.Stdio {
		return f.runStdio(ctx, specs[0].Target)
	}
	d, err := f.p.newDisplay(f.screen, f.log)
	if err != nil {
		return err
	}
	tunnels, err := f.reverse(specs)
	if err != nil {
		return err
	}
	opts, err := f.options()
	if err != nil {
		return err
	}
	opts.Tunnels = tunnels
	if err := f.shown.wait(ctx, d.log); err != nil {
		return err
	}
	stop, err := d.start(ctx, f.server)
	if err != nil {
		return err
	}
	defer stop()
	defer f.p.supervise(ctx, "forwarding through "+f.server)()
	f.out.warn(f.p, d.log)
	defer d.join(&opts)()
	f.shown.apply(&opts)
	opts.Forwards = true
	a, err := agent.New(opts)
	if err != nil {
		return err
	}
	locals, err := listenAll(specs, forward.Options{Open: f.p.tellFailures(a.OpenTarget, d.log), Logger: d.log})
	if err != nil {
		return err
	}
	for i, l := range locals {
		if l != nil {
			fmt.Fprintf(f.p.out, "%s  ->  %s\n", l.Addr(), targetOf(specs[i]))
		}
	}
	return runForwards(ctx, a, locals)
}

// targetOf says where a forward goes, for people.
func targetOf(s forward.Spec) string {
	if s.Kind == forward.Socks {
		return "wherever SOCKS5 or CONNECT says"
	}
	return s.Target.String()
}

// reverse returns the tunnels for R:. The error has all that is wrong.
func (f *forwardFlags) reverse(specs []forward.Spec) (tunnels []agent.Tunnel, err error) {
	var problems []error
	if f.socks.given() && !f.fromEnvironment("socks-allow") && !slices.ContainsFunc(specs, func(s forward.Spec) bool { return s.Kind == forward.ReverseSocks }) {
		problems = append(problems, usagef("--socks-allow: it is for R:socks, and there is none"))
	}
	for _, s := range specs {
		if s.IsReverse() {
			t, err := f.reverseOne(s)
			problems = append(problems, err)
			tunnels = append(tunnels, t)
		}
	}
	if err := config.Join(problems...); err != nil || len(tunnels) > 0 {
		return tunnels, err
	}
	if f.id != "" {
		return nil, usagef("--id %s: it is the name of tunnels for R:, and there are none", f.id)
	}
	if f.fromEnvironment(ruleFlags...) {
		return nil, nil // they are there for commands that have visitors
	}
	rules, err := f.rules.policy(agent.Tunnel{Kind: dialect.TCP, ID: "x"})
	switch {
	case err != nil:
		return nil, err
	case !rules.IsZero():
		return nil, usagef("rules for visitors, such as --allow-ip, are for tunnels of R:, and there are none")
	}
	return nil, nil
}

// fromEnvironment reports whether the environment sets one of these flags.
func (f *forwardFlags) fromEnvironment(flags ...string) bool {
	return slices.ContainsFunc(flags, func(name string) bool { return f.p.getenv(envName(name)) != "" })
}

// reverseOne returns the tunnel for one R:.
func (f *forwardFlags) reverseOne(s forward.Spec) (t agent.Tunnel, err error) {
	t = agent.Tunnel{Kind: dialect.TCP, Port: s.Port, Addr: s.Addr}
	switch {
	case s.Kind == forward.ReverseSocks:
		if t.Upstream, err = f.socks.upstream(); err != nil {
			return t, err // all that is wrong
		}
	case s.Target.Network == tunnel.UDP:
		t.Kind = dialect.UDP
		t.Upstream, err = agent.ParseUDPUpstream(net.JoinHostPort(s.Target.Host, strconv.Itoa(int(s.Target.Port))))
	default:
		t.Upstream, err = agent.ParseUpstream(s.Target.String())
	}
	if err != nil {
		return t, usagef("%v", err)
	}
	id := f.id
	if id == "" {
		id = defaultID(t.Upstream.String())
	}
	if t.ID, err = tunnel.ParseID(id); err != nil {
		return t, usagef("--id: %v", err)
	}
	return t, config.Join(f.rules.apply(&t), checkEntry(t, &f.rules))
}

// listenAll opens all listeners or none. Reverse forwards have none: theirs is
// nil.
func listenAll(specs []forward.Spec, opts forward.Options) ([]*forward.Local, error) {
	locals := make([]*forward.Local, len(specs))
	for i, s := range specs {
		if s.IsReverse() {
			continue
		}
		l, err := forward.Listen(s, opts)
		if err != nil {
			for _, l := range locals[:i] {
				if l != nil {
					l.Close()
				}
			}
			return nil, notListening(s, err)
		}
		locals[i] = l
	}
	return locals, nil
}

// notListening says why a forward has no listener, and what helps.
func notListening(s forward.Spec, err error) error {
	host, port, _ := net.SplitHostPort(s.Local)
	dns, unknown := errors.AsType[*net.DNSError](err)
	switch {
	case unknown && dns.IsNotFound && host == "r":
		return fmt.Errorf("forward %s: this machine has no address %q: R: for a port of the server is in capitals", s, host)
	case unknown && dns.IsNotFound:
		return fmt.Errorf("forward %s: this machine has no address %q", s, host)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("forward %s: this machine has no address %s", s, host)
	case errors.Is(err, syscall.EADDRINUSE) && s.Network != "unix":
		return fmt.Errorf("forward %s: port %s of this machine is in use: choose another one to listen at, such as %s", s, port, otherLocal(s, host, port))
	case errors.Is(err, syscall.EACCES) && s.Network != "unix":
		return fmt.Errorf("forward %s: this user may not listen at port %s: choose one from 1024 on, such as %s", s, port, otherLocal(s, host, port))
	}
	return fmt.Errorf("forward %s: %w", s, err)
}

// otherLocal returns the forward with a port that is likely to be free.
func otherLocal(s forward.Spec, host, port string) string {
	const up = 10000
	n, err := strconv.Atoi(port)
	if err != nil || n > 65535-up {
		n = 0
	}
	local := strconv.Itoa(n + up)
	if host != "127.0.0.1" {
		local = net.JoinHostPort(host, local)
	}
	if s.Kind == forward.Socks {
		return local + ":socks"
	}
	return local + ":" + s.Target.String()
}

// runForwards runs an agent with its listeners until ctx ends or one of them
// fails. What is open has the agent's grace to finish.
func runForwards(ctx context.Context, a *agent.Agent, locals []*forward.Local) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var wg sync.WaitGroup
	for _, l := range locals {
		if l != nil {
			wg.Go(func() {
				if err := l.Run(ctx); err != nil {
					fail(err)
				}
			})
		}
	}
	if err := a.Run(ctx); err != nil {
		fail(err)
	}
	fail(context.Canceled)
	for _, l := range locals {
		if l != nil {
			l.Close()
		}
	}
	wg.Wait()
	return failure(context.Cause(ctx))
}

// runStdio connects standard input and output to a target.
func (f *agentFlags) runStdio(ctx context.Context, target tunnel.Target) error {
	log, err := f.p.logger(f.log, true)
	if err != nil {
		return err
	}
	opts, err := f.options()
	if err != nil {
		return err
	}
	if err := f.shown.wait(ctx, log); err != nil {
		return err
	}
	f.out.warn(f.p, log)
	f.shown.apply(&opts)
	opts.Forwards, opts.Logger = true, log
	w := f.p.newWaiter(target)
	defer w.stop()
	opts.OnState = w.state
	a, err := agent.New(opts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { a.Run(ctx) })
	opened := false
	err = forward.RelayStdio(ctx, func(ctx context.Context, t tunnel.Target) (net.Conn, error) {
		c, err := a.OpenTarget(ctx, t)
		opened = err == nil
		w.stop()
		return c, err
	}, target, f.p.in, f.p.out)
	switch {
	case err == nil || ctx.Err() != nil:
		return nil
	case opened:
		return fmt.Errorf("%s: %s", strconv.Quote(target.String()), reason(err))
	}
	return errors.New(openFailure(target, err))
}
