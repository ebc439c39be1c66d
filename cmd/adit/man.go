package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand is for whoever packages adit.
func (p *program) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man FOLDER",
		Short:  "Write the manual pages",
		Long:   "Write the manual pages of all commands into a folder, for man(1).",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := args[0]
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			// Defaults are those of anybody, and not of who runs this.
			root := (&program{environ: []string{"HOME=~"}}).rootCommand()
			for _, c := range withSubcommands(root) {
				if c.Hidden {
					continue
				}
				file := filepath.Join(dir, manName(c)+".1")
				if err := os.WriteFile(file, []byte(manPage(c)), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// manName is what the page of c goes by.
func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manPage returns the page of c in the language of man(7).
func manPage(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 1 \"\" %s %s\n", roffQuote(strings.ToUpper(manName(c))), roffQuote("adit "+versionString()), roffQuote("adit"))
	b.WriteString(".nh\n.ad l\n") // names of flags stay in one piece
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(manName(c)), roff(c.Short))
	b.WriteString(".SH SYNOPSIS\n")
	line := c.UseLine()
	if c.HasAvailableSubCommands() {
		line = c.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(&b, ".B %s\n", roff(line))
	b.WriteString(".SH DESCRIPTION\n")
	manText(&b, c.Long)
	if c.HasAvailableSubCommands() {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(&b, ".TP\n.B %s\n%s, see\n.BR %s (1)\n", roff(sub.CommandPath()), roff(sub.Short), roff(manName(sub)))
			}
		}
	}
	manFlags(&b, c.NonInheritedFlags())
	if c.Example != "" {
		b.WriteString(".SH EXAMPLES\n")
		manVerbatim(&b, strings.Split(c.Example, "\n"))
	}
	b.WriteString(".SH ENVIRONMENT\n")
	manText(&b, "Each flag can be set in the environment too, in capitals and after ADIT_: ADIT_LOG_LEVEL is --log-level. A flag goes before that.")
	b.WriteString(".SH EXIT STATUS\n")
	manText(&b, "0 if it was told to stop, or has done what it was asked for; 1 if it failed; 2 if it was called in a wrong way.")
	if related := manRelated(c); len(related) > 0 {
		b.WriteString(".SH SEE ALSO\n")
		for i, name := range related {
			comma := ","
			if i == len(related)-1 {
				comma = ""
			}
			fmt.Fprintf(&b, ".BR %s (1)%s\n", roff(name), comma)
		}
	}
	return b.String()
}

// manRelated are the pages above and beside that of c.
func manRelated(c *cobra.Command) (names []string) {
	if !c.HasParent() {
		return nil
	}
	names = append(names, manName(c.Parent()))
	for _, other := range c.Parent().Commands() {
		if other != c && other.IsAvailableCommand() {
			names = append(names, manName(other))
		}
	}
	slices.Sort(names)
	return names
}

func manFlags(b *strings.Builder, fl *pflag.FlagSet) {
	sections := flagSections(fl)
	if len(sections) > 0 {
		b.WriteString(".SH OPTIONS\n")
	}
	for i, s := range sections {
		if i > 0 {
			fmt.Fprintf(b, ".SS %s\n", roffQuote(strings.TrimSuffix(s.title, ":")))
		}
		for _, f := range s.flags {
			manFlag(b, f)
		}
	}
}

func manFlag(b *strings.Builder, f *pflag.Flag) {
	value := flagValue(f)
	fmt.Fprintf(b, ".TP\n.B %s", roff(strings.TrimSuffix(flagHead(f), " "+value)))
	if value != "" {
		fmt.Fprintf(b, " \\fI%s\\fR", roff(value))
	}
	_, usage := pflag.UnquoteUsage(f)
	fmt.Fprintf(b, "\n%s", roff(usage))
	if !slices.Contains([]string{"", "false", "0", "0s", "[]"}, f.DefValue) {
		fmt.Fprintf(b, " (default %s)", roff(f.DefValue))
	}
	b.WriteString("\n")
}

// manText writes paragraphs. Lines that begin with a space stay as they are.
func manText(b *strings.Builder, text string) {
	for i, paragraph := range strings.Split(text, "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		lines := strings.Split(strings.Trim(paragraph, "\n"), "\n")
		if strings.HasPrefix(lines[0], " ") {
			manVerbatim(b, lines)
			continue
		}
		for _, line := range lines {
			b.WriteString(roff(line) + "\n")
		}
	}
}

// manVerbatim writes lines as they are, but for the space that all begin with.
func manVerbatim(b *strings.Builder, lines []string) {
	b.WriteString(".RS 4\n.nf\n")
	for _, line := range lines {
		b.WriteString(roff(strings.TrimPrefix(line, "  ")) + "\n")
	}
	b.WriteString(".fi\n.RE\n")
}

// roff returns text so that it is no markup; see groff(7).
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", `\[u2026]`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(text)
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text
}

// roffQuote makes text one argument of a request.
func roffQuote(text string) string { return `"` + strings.ReplaceAll(roff(text), `"`, `""`) + `"` }
