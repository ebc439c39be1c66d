package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commands returns all commands that the help shows.
func commands(t *testing.T) (all []*cobra.Command) {
	t.Helper()
	for _, c := range withSubcommands((&program{environ: []string{"HOME=~"}}).rootCommand()) {
		if !c.Hidden && !c.DisableFlagParsing {
			all = append(all, c)
		}
	}
	return all
}

func TestHelpIsAsWideAsTheTerminal(t *testing.T) {
	t.Parallel()
	for _, c := range commands(t) {
		for _, width := range []int{60, 80, 100} {
			var b strings.Builder
			writeHelp(&b, c, width)
			for line := range strings.Lines(b.String()) {
				line = strings.TrimSuffix(line, "\n")
				if len(line) > width && !strings.Contains(c.Example+c.Long, line) && line != "  "+c.UseLine() && strings.Contains(strings.TrimSpace(line), " ") {
					t.Errorf("%s in %d columns: got the line %q", c.CommandPath(), width, line)
				}
			}
		}
	}
}

func TestHelpHasEachFlagOnce(t *testing.T) {
	t.Parallel()
	known := make(map[string]bool)
	for _, c := range commands(t) {
		var b strings.Builder
		writeHelp(&b, c, 80)
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			known[f.Name] = true
			want := 1
			if f.Hidden {
				want = 0
			}
			lines := slices.DeleteFunc(strings.Split(b.String(), "\n"), func(line string) bool {
				name, _, _ := strings.Cut(strings.TrimPrefix(line, "  "), " ")
				return !strings.HasPrefix(line, "  -") || strings.TrimPrefix(name, "-h, ") != "--"+f.Name
			})
			if f.Name != "help" && f.Name != "version" && len(lines) != want {
				t.Errorf("%s: got %d lines for --%s, want %d:\n%s", c.CommandPath(), len(lines), f.Name, want, b.String())
			}
		})
	}
	for _, g := range flagGroups {
		for _, name := range g.names {
			if !known[name] {
				t.Errorf("group %q has --%s, which is no flag", g.title, name)
			}
		}
	}
}

// Each command that does something has an example, and what the examples call
// is there.
func TestHelpExamples(t *testing.T) {
	t.Parallel()
	for _, c := range commands(t) {
		if c.Example == "" && c.Runnable() && c.HasParent() && !c.HasSubCommands() && c.Name() != "version" && c.Name() != "completion" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			_, call, ok := strings.Cut(" "+line, " adit ")
			if !ok {
				continue
			}
			call = strings.NewReplacer("'", "", `"`, "").Replace(call)
			call, _, _ = strings.Cut(call, ">")
			call, _, _ = strings.Cut(call, "<")
			root := (&program{environ: []string{"HOME=~"}}).rootCommand()
			called, args, err := root.Find(strings.Fields(call))
			if err != nil {
				t.Errorf("%s: example %q: %v", c.CommandPath(), line, err)
				continue
			}
			if strings.Contains(line, "ProxyCommand") {
				continue // the rest is not only adit's
			}
			if err := called.ParseFlags(args); err != nil {
				t.Errorf("%s: example %q: %v", c.CommandPath(), line, err)
			} else if err := called.ValidateArgs(called.Flags().Args()); err != nil && !strings.Contains(line, `"`) {
				t.Errorf("%s: example %q: %v", c.CommandPath(), line, err)
			}
		}
	}
}

func TestHelpCommandCompletes(t *testing.T) {
	t.Parallel()
	code, out, _ := call(t, nil, "__complete", "help", "token", "cre")
	if code != exitDone || !strings.HasPrefix(out, "create\t") {
		t.Errorf("got exit code %d and %q, want create", code, out)
	}
}
