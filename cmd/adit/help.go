package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"adit/internal/screen"
)

const (
	helpWidth = 100 // columns that help takes at most
	manyFlags = 12  // from which on they are shown in groups

	// Names of flags are not wider than this beside what they do.
	flagColumn = 28
)

// flagGroups are the parts of a long list of flags in the help. What is in none
// comes first.
var flagGroups = []struct {
	title string
	names []string
}{
	{"TLS and HTTP/2:", []string{"tls-listen", "tls-cert", "tls-key", "dev-tls", "redirect-http", "h2c", "quic-listen"}},
	{"The way to the server:", []string{
		"server", "ca-file", "carrier", "connections", "proxy", "proxy-auth", "proxy-password-file",
		"server-header", "server-header-file", "server-host", "sni",
	}},
	{"Credentials:", []string{
		"secret-file", "old-secret-file", "token-command", "token-stdin", "cert", "key", "agent-ca-file", "grants",
		"jwks", "jwt-issuer", "jwt-audience", "reserved-ids", "max-agents-per-subject",
	}},
	{"Who may enter:", []string{
		"allow-ip", "deny-ip", "rate", "total-rate", "max-body", "basic-auth", "basic-auth-file", "pass-authorization",
		"visitor-ca-file", "viewer-tokens", "viewer-key-file", "verify-webhook", "webhook-secret-file", "webhook-tolerance",
	}},
	{"What the upstream and visitors get:", []string{
		"host-header", "request-header", "request-header-file", "remove-request-header",
		"response-header", "response-header-file", "remove-response-header", "proxy-protocol",
	}},
	{"What stands before the server:", []string{"trusted-proxies", "proxy-protocol-from"}},
	{"Times and limits:", []string{"hold", "grace", "drain-delay", "resume-window", "buffer-memory", "max-forwards", "max-forwards-per-subject"}},
	{"Screen and log:", []string{"screen", "log-level", "log-format", "access-log", "access-log-file", "otlp-endpoint", "trace-ratio"}},
	{"For operators:", []string{
		"admin", "admin-hosts", "admin-open-metrics", "admin-token-file", "admin-read-token-file", "doctor",
	}},
	{"Agents of other programs:", []string{
		"forest-config",
		"websocktunnel-secret-file", "websocktunnel-audience", "websocktunnel-owner", "websocktunnel-tokens",
		"websocktunnel-viewer-tokens", "websocktunnel-viewer-key-file",
		"wstunnel-token-file", "wstunnel-owner", "wstunnel-viewer-tokens", "wstunnel-viewer-key-file",
	}},
}

// helpCommand is adit help, which unlike cobra's takes no word that is no
// command.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "help [COMMAND]",
		Short:             "Help about any command",
		Long:              "Say what a command does, and what its flags are, as adit COMMAND --help.",
		Example:           "  adit help http\n  adit help token create",
		ValidArgsFunction: completeCommands,
		PersistentPreRun:  func(*cobra.Command, []string) {}, // whatever the environment says
		RunE: func(c *cobra.Command, args []string) error {
			about, rest, err := c.Root().Find(args)
			if err == nil && len(rest) > 0 && about.HasSubCommands() {
				err = unknownCommand(about, rest[0])
			}
			if err != nil {
				return err
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// completeCommands completes the words that lead to a command.
func completeCommands(c *cobra.Command, args []string, begun string) (words []cobra.Completion, _ cobra.ShellCompDirective) {
	about, rest, err := c.Root().Find(args)
	if err != nil || len(rest) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, sub := range about.Commands() {
		if sub.IsAvailableCommand() && strings.HasPrefix(sub.Name(), begun) {
			words = append(words, cobra.CompletionWithDesc(sub.Name(), sub.Short))
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// showHelp has root and all below it print help as this file does.
func (p *program) showHelp(root *cobra.Command) {
	root.SetHelpFunc(func(c *cobra.Command, _ []string) {
		if c.HasSubCommands() && c.Flags().NArg() > 0 {
			p.mistake = unknownCommand(c, c.Flags().Arg(0)) // that is what was asked about
			return
		}
		var b strings.Builder
		writeHelp(&b, c, p.helpWidth())
		io.WriteString(p.out, b.String())
	})
}

// helpWidth is how many columns help may take.
func (p *program) helpWidth() int {
	if p.terminal == nil {
		return 80
	}
	return min(helpWidth, screen.Columns(p.terminal))
}

// writeHelp writes what c is for, its examples, commands and flags.
func writeHelp(b *strings.Builder, c *cobra.Command, width int) {
	what := c.Long
	if what == "" {
		what = c.Short
	}
	writeText(b, what, width)
	b.WriteString("\nUsage:\n")
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(b, "  %s COMMAND\n", c.CommandPath())
	} else {
		fmt.Fprintf(b, "  %s\n", c.UseLine())
	}
	if c.Example != "" {
		fmt.Fprintf(b, "\nExamples:\n%s\n", strings.TrimRight(c.Example, "\n"))
	}
	writeCommands(b, c, width)
	writeFlags(b, c.LocalFlags(), width)
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(b, "\n%s COMMAND --help has more about a command.\n", c.CommandPath())
	}
}

// writeText writes paragraphs as wide as they may be. Those that begin with a
// space stay as they are.
func writeText(b *strings.Builder, text string, width int) {
	for i, paragraph := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if i > 0 {
			b.WriteString("\n")
		}
		lines := []string{paragraph}
		if !strings.HasPrefix(paragraph, " ") {
			lines = wrap(paragraph, width)
		}
		b.WriteString(strings.Join(lines, "\n") + "\n")
	}
}

// writeCommands writes the commands of c, in the order of commandGroups.
func writeCommands(b *strings.Builder, c *cobra.Command, width int) {
	wide := 0
	for _, sub := range c.Commands() {
		wide = max(wide, len(sub.Name()))
	}
	section := func(title string, commands []*cobra.Command) {
		if len(commands) == 0 {
			return
		}
		fmt.Fprintf(b, "\n%s\n", title)
		for _, sub := range commands {
			writeEntry(b, sub.Name(), sub.Short, wide, width)
		}
	}
	for _, g := range commandGroups {
		var inGroup []*cobra.Command
		for _, name := range g.commands {
			for _, sub := range c.Commands() {
				if sub.Name() == name && sub.GroupID == g.title {
					inGroup = append(inGroup, sub)
				}
			}
		}
		section(g.title, inGroup)
	}
	var rest []*cobra.Command
	for _, sub := range c.Commands() {
		if sub.GroupID == "" && (sub.IsAvailableCommand() || sub.Name() == "help") {
			rest = append(rest, sub)
		}
	}
	if c.HasParent() {
		section("Commands:", rest)
	} else {
		section("More:", rest)
	}
}

// A flagSection is a part of a list of flags.
type flagSection struct {
	title string
	flags []*pflag.Flag
}

// flagSections returns the flags of fl that are shown: in groups, if there are
// many.
func flagSections(fl *pflag.FlagSet) (sections []flagSection) {
	var rest []*pflag.Flag
	fl.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			rest = append(rest, f)
		}
	})
	if len(rest) >= manyFlags {
		for _, g := range flagGroups {
			of := flagSection{title: g.title}
			for _, name := range g.names {
				if at := slices.IndexFunc(rest, func(f *pflag.Flag) bool { return f.Name == name }); at >= 0 {
					of.flags = append(of.flags, rest[at])
					rest = slices.Delete(rest, at, at+1)
				}
			}
			sections = append(sections, of)
		}
	}
	sections = append([]flagSection{{"Flags:", rest}}, sections...)
	return slices.DeleteFunc(sections, func(s flagSection) bool { return len(s.flags) == 0 })
}

// writeFlags writes the flags of fl.
func writeFlags(b *strings.Builder, fl *pflag.FlagSet, width int) {
	for _, s := range flagSections(fl) {
		fmt.Fprintf(b, "\n%s\n", s.title)
		column := 0
		for _, f := range s.flags {
			if n := len(flagHead(f)); n <= flagColumn {
				column = max(column, n)
			}
		}
		for _, f := range s.flags {
			writeFlag(b, f, column, width)
		}
	}
}

// flagHead is a flag with what it takes, such as "--server URL".
func flagHead(f *pflag.Flag) string {
	head := "--" + f.Name
	if f.Shorthand != "" {
		head = "-" + f.Shorthand + ", " + head
	}
	if kind := flagValue(f); kind != "" {
		head += " " + kind
	}
	return head
}

// flagValue is the word for what a flag takes, and empty for a switch.
func flagValue(f *pflag.Flag) string {
	kind := f.Value.Type()
	switch {
	case kind == "bool":
		return ""
	case strings.HasSuffix(f.Name, "-file"), slices.Contains([]string{"config", "cert", "key", "out", "tls-cert", "tls-key"}, f.Name):
		return "FILE"
	case strings.HasSuffix(f.Name, "-dir"):
		return "FOLDER"
	case slices.Contains([]string{"server", "public-url", "proxy", "otlp-endpoint", "jwks"}, f.Name):
		return "URL"
	case f.Name == "listen", f.Name == "admin", strings.HasSuffix(f.Name, "-listen"):
		return "ADDRESS"
	case kind == "stringSlice":
		return "LIST"
	case kind == "duration":
		return "TIME"
	case kind == "string", kind == "stringArray":
		return "TEXT"
	}
	return "NUMBER"
}

// writeFlag writes one flag: what it does is beside its name, or below that if
// that is wider than column, or there is not much room.
func writeFlag(b *strings.Builder, f *pflag.Flag, column, width int) {
	_, usage := pflag.UnquoteUsage(f)
	if !slices.Contains([]string{"", "false", "0", "0s", "[]"}, f.DefValue) {
		format := " (default %s)"
		if f.Value.Type() == "string" {
			format = " (default %q)"
		}
		usage += fmt.Sprintf(format, f.DefValue)
	}
	writeEntry(b, flagHead(f), usage, column, width)
}

// writeEntry writes a name and what it stands for.
func writeEntry(b *strings.Builder, name, text string, column, width int) {
	head := "  " + name
	indent := column + 4
	if width-indent < 30 {
		indent = 6
	}
	lines := wrap(text, max(20, width-indent))
	if len(head)+2 > indent {
		b.WriteString(head + "\n")
	} else {
		fmt.Fprintf(b, "%-*s%s\n", indent, head, lines[0])
		lines = lines[1:]
	}
	for _, line := range lines {
		fmt.Fprintf(b, "%*s%s\n", indent, "", line)
	}
}
