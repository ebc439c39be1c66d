package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"adit/config"
)

func (p *program) configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Check config files, or begin one",
		Long: "Check the files that \"adit server\" and \"adit agent\" take with --config, or print\n" +
			"one to begin with.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(p.configCheckCommand(), p.configExampleCommand())
	return c
}

// roles are whose settings a file may have.
var roles = []string{"server", "agent"}

func (p *program) configCheckCommand() *cobra.Command {
	var role string
	c := &cobra.Command{
		Use:   "check FILE...",
		Short: "Say all that is wrong with config files",
		Long: "Say all that is wrong with config files, each with its line and column. A file\n" +
			"with tunnels is an agent's, any other one a server's.\n\n" +
			"It looks at the files that the settings name, as a start does, but at nothing of\n" +
			"the environment; it opens no port and connects to nobody. The exit code is 1 if a\n" +
			"file has problems.",
		Example: "  adit config check /etc/adit/server.yaml",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, files []string) error {
			if role != "" && !slices.Contains(roles, role) {
				return usagef("--role %q: %s are allowed", role, strings.Join(roles, " and "))
			}
			bad := 0
			for _, file := range files {
				found, err := p.checkFile(file, role)
				for _, e := range config.Problems(err) {
					fmt.Fprintln(p.out, e)
				}
				if err != nil {
					bad++
				} else {
					fmt.Fprintf(p.out, "%s: no problem in these settings of %s\n", file, withArticle(found))
				}
			}
			if bad > 0 {
				return fmt.Errorf("%d of %d files cannot be used", bad, len(files))
			}
			return nil
		},
	}
	c.Flags().StringVar(&role, "role", "", "whose settings they are: server or agent (default by what is in each)")
	completeWith(c, "role", roles)
	return c
}

func withArticle(role string) string {
	if role == "agent" {
		return "an agent"
	}
	return "a " + role
}

// checkFile returns all that is wrong with a file, and whose it is.
func (p *program) checkFile(path, role string) (string, error) {
	file, err := config.Read(path)
	if err != nil {
		return role, err
	}
	if role == "" {
		role = "server"
		if p.roleOf(file.Top) == "agent" {
			role = "agent"
		}
	}
	alone := &program{environ: p.ownEnvironment(), out: io.Discard, errOut: io.Discard}
	if role == "agent" && !hasText(file.Top.Setting("secret-file")) {
		alone.environ = append(alone.environ, envToken+unknown)
	}
	fl := pflag.NewFlagSet(role, pflag.ContinueOnError)
	if role == "server" {
		f := serverFlags{p: alone}
		f.add(fl)
		f.config = path
		_, place, err := f.settings(fl)
		return role, config.Join(err, place(f.checkFiles()))
	}
	f := newSeveralFlags(alone)
	f.add(fl)
	f.config = path
	_, _, _, err = f.settings(fl, &tunnelFile{p: alone, checkOnly: true}, nil)
	return role, err
}

// unknown stands for a secret that the environment has when it matters.
const unknown = "=not known yet"

// hasText reports whether a setting is there and not empty.
func hasText(s *config.Setting) bool {
	if s == nil {
		return false
	}
	text, err := s.Text()
	return err != nil || text != ""
}

// ownEnvironment is the environment without what sets flags.
func (p *program) ownEnvironment() (environ []string) {
	for _, v := range p.environ {
		if !strings.HasPrefix(v, envPrefix) {
			environ = append(environ, v)
		}
	}
	return environ
}

// roleOf guesses whose settings s has: an agent's if there are tunnels, or else
// whoever knows more of them.
func (p *program) roleOf(s *config.Section) string {
	if s.Setting(tunnelsKey) != nil {
		return "agent"
	}
	known := func(add func(*pflag.FlagSet)) (n int) {
		fl := pflag.NewFlagSet("", pflag.ContinueOnError)
		add(fl)
		for _, st := range s.Settings() {
			if fl.Lookup(st.Key) != nil {
				n++
			}
		}
		return n
	}
	sf, af := serverFlags{p: p}, newSeveralFlags(p)
	if known(af.add) > known(sf.add) {
		return "agent"
	}
	return "server"
}

func (p *program) configExampleCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "example server|agent",
		Short:     "Print a config file to begin with",
		Long:      "Print a config file to begin with: every setting with what it does and its default.",
		Example:   "  adit config example agent > adit.yaml",
		Args:      cobra.ExactArgs(1),
		ValidArgs: roles,
		RunE: func(c *cobra.Command, args []string) error {
			var b strings.Builder
			switch args[0] {
			case "server":
				p.serverExample(&b)
			case "agent":
				p.agentExample(&b)
			default:
				return usagef("config example %q: %s are allowed", args[0], strings.Join(roles, " and "))
			}
			_, err := io.WriteString(p.out, b.String())
			return err
		},
	}
}

func (p *program) serverExample(b *strings.Builder) {
	b.WriteString("# Settings of adit server --config. What is not set has the default that is shown.\n")
	f := serverFlags{p: &program{}}
	fl := pflag.NewFlagSet("server", pflag.ContinueOnError)
	f.add(fl)
	dir := fl.Lookup("data-dir") // whose default depends on who asks
	dir.DefValue = "/var/lib/adit"
	dir.Usage += "; as a service it has this one, otherwise ~/.local/state/adit"
	exampleFlags(b, "", fl)
	b.WriteString(exampleRoutes)
}

func (p *program) agentExample(b *strings.Builder) {
	b.WriteString("# Settings of adit agent --config. What is not set has the default that is shown.\n")
	inTunnels := p.tunnelSettings()
	var tunnels strings.Builder
	for _, k := range tunnelKinds {
		fmt.Fprintf(&tunnels, "\n  # %s.\n  - %s: %s\n", k.short, k.name, k.sample)
		f := p.newTunnelFlags(k.kind)
		fl := pflag.NewFlagSet(k.name, pflag.ContinueOnError)
		f.add(fl)
		exampleFlags(&tunnels, "    ", fl)
	}
	f := newSeveralFlags(&program{})
	fl := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	f.add(fl)
	own, common := []string{"tunnel"}, []string{"tunnel"}
	fl.VisitAll(func(f *pflag.Flag) {
		if inTunnels[f.Name] {
			common = append(common, f.Name)
		} else {
			own = append(own, f.Name)
		}
	})
	exampleFlags(b, "", fl, common...)
	fmt.Fprintf(b, "\n# What is exposed.\ntunnels:\n%s", tunnels.String())
	b.WriteString("\n# For all tunnels, and for each that does not set it otherwise.\n")
	exampleFlags(b, "", fl, own...)
}

// exampleFlags writes the flags that have a key, each as a comment.
func exampleFlags(b *strings.Builder, indent string, fl *pflag.FlagSet, without ...string) {
	fl.SortFlags = false
	fl.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || !config.HasKey(f) || slices.Contains(without, f.Name) {
			return
		}
		_, usage := pflag.UnquoteUsage(f)
		b.WriteString("\n")
		for _, line := range wrap(usage, 98-len(indent)) {
			fmt.Fprintf(b, "%s# %s\n", indent, line)
		}
		fmt.Fprintf(b, "%s#%s: %s\n", indent, f.Name, config.Default(f))
	})
}

// wrap breaks text into lines of at most width bytes, if its words allow that.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
