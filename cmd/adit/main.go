// Adit is a tunnel: a public server, and agents that dial out to it and expose
// what they reach. Run adit help.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"

	"adit/config"
	"adit/internal/screen"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	// quic-go writes to standard error that the system's UDP buffers are small,
	// past all logging; docs/carriers.md says so instead.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	p := &program{
		environ:  os.Environ(),
		in:       os.Stdin,
		out:      os.Stdout,
		errOut:   os.Stderr,
		person:   isTerminal(os.Stdout),
		console:  isTerminal(os.Stderr),
		terminal: terminalOf(os.Stdout),

		serviceDirs: serviceReportDirs,
	}
	d, _, standsIn := dropInFor(os.Args[0], os.Args[1:])
	p.diesOfSignals = standsIn && d.diesOfSignals
	ctx, stop := p.untilSignal()
	code := p.runAs(ctx, os.Args[0], os.Args[1:])
	stop()
	if p.diesOfSignals {
		p.dieOfSignal()
	}
	os.Exit(code)
}

// A program is one run of adit, with what it has of its surroundings.
type program struct {
	environ []string
	args    []string  // of run, as everybody on this machine can see them
	in      io.Reader // for tokens
	out     io.Writer // for people and scripts
	errOut  io.Writer // for logs and errors
	person  bool      // out is a terminal
	console bool      // errOut is a terminal

	terminal *os.File // out, if it is one that a screen can be shown on
	shown    atomic.Pointer[screen.Screen]
	hangups  hangups

	diesOfSignals bool                      // as in dropIn
	signalled     atomic.Pointer[os.Signal] // that the program ends for; nil if there was none

	lines sync.Once
	input *lineSource // tokens on in, after tokensOfInput

	mistake error // found while help was asked for

	serviceDirs []string // where services of this machine have sockets for adit status
}

// runAs is run for a program that was called by name, which may be that of a
// program that adit stands in for.
func (p *program) runAs(ctx context.Context, name string, args []string) int {
	if d, args, ok := dropInFor(name, args); ok {
		return d.run(p, ctx, args)
	}
	return p.run(ctx, args)
}

// run runs the command that args name, until it is done or ctx ends, and
// returns the exit code.
func (p *program) run(ctx context.Context, args []string) int {
	p.args = args
	root := p.rootCommand()
	root.SetArgs(args)
	root.SetOut(p.out)
	root.SetErr(p.errOut)
	err := cmp.Or(root.ExecuteContext(ctx), p.mistake)
	if err == nil {
		return exitDone
	}
	if err == errDegraded {
		return exitFailed
	}
	for _, e := range config.Problems(err) {
		fmt.Fprintln(p.errOut, "adit:", e)
	}
	return exitCode(err)
}

// rootCommand is the whole command tree.
func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "adit",
		Short: "Expose what can only dial out",
		Long: "adit gives services behind a firewall a public address. One machine that can be\n" +
			"reached runs \"adit server\"; the machine with the service runs an agent, such as\n" +
			"\"adit http 3000\", which dials out to it.\n\n" +
			"Each flag can be set in the environment too: --secret-file is ADIT_SECRET_FILE.\n" +
			"The server and the agent take files with --config, where it is secret-file.",
		Example: "  adit demo\n  adit server\n  adit http 3000 --server wss://tunnel.example.com",

		Version:       versionLine(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return c.Help()
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true // ours comes with the rest
	root.AddCommand(
		p.serverCommand(), p.agentCommand(), p.forwardCommand(), p.socksCommand(), p.stdioCommand(),
		p.tokenCommand(), p.demoCommand(), p.statusCommand(), p.routeCommand(), p.serviceCommand(), p.configCommand(), p.certCommand(),
		p.doctorCommand(), p.completionCommand(), p.manCommand(), p.versionCommand(),
	)
	root.AddCommand(dropInCommands()...)
	for _, k := range tunnelKinds {
		root.AddCommand(p.tunnelCommand(k))
	}
	root.SetFlagErrorFunc(wrongFlag)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetHelpCommand(helpCommand())
	p.showHelp(root)
	groupCommands(root)
	for _, c := range withSubcommands(root) {
		addCompletions(c)
		if args := c.Args; args != nil {
			c.Args = func(c *cobra.Command, given []string) error {
				if args(c, given) != nil {
					return wrongArguments(c, given)
				}
				return nil
			}
		}
	}
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error { return p.applyEnvironment(root, c) }
	return root
}

// commandGroups are the parts of the list of commands in the help.
var commandGroups = []struct {
	title    string
	commands []string
}{
	{"Expose services:", []string{"http", "tcp", "udp", "tls", "agent", "demo"}},
	{"Reach what the server reaches:", []string{"forward", "socks", "stdio"}},
	{"Run a server:", []string{"server", "route", "token"}},
	{"Operate either:", []string{"config", "service", "status", "doctor", "cert"}},
	{"Stand in for another tunnel:", standIns()},
}

// standIns returns the names of the commands that are other programs'.
func standIns() (names []string) {
	for _, c := range dropInCommands() {
		names = append(names, c.Name())
	}
	return names
}

func groupCommands(root *cobra.Command) {
	for _, g := range commandGroups {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		for _, c := range root.Commands() {
			if slices.Contains(g.commands, c.Name()) {
				c.GroupID = g.title
			}
		}
	}
}

// withSubcommands returns c and all commands below it.
func withSubcommands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, withSubcommands(sub)...)
	}
	return all
}

// A usageError is a mistake in how the command was called. If it is about a
// flag, the text begins with that, such as "--hold 25h: 0s to 24h are allowed".
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }
