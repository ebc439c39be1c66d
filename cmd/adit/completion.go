package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// choices are the flags that take one of a few words.
var choices = map[string][]string{
	"log-level":  {"debug", "info", "warn", "error"},
	"log-format": {"auto", "text", "json"},
	"screen":     {"auto", "off"},
	"proxy-auth": defaultSchemes,
}

// A shell is one that adit completion knows.
type shell struct {
	name  string
	write func(root *cobra.Command, w io.Writer) error
}

var shells = []shell{
	{"bash", func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) }},
	{"zsh", (*cobra.Command).GenZshCompletion},
	{"fish", func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) }},
	{"powershell", (*cobra.Command).GenPowerShellCompletionWithDesc},
}

func (p *program) completionCommand() *cobra.Command {
	var names []string
	for _, s := range shells {
		names = append(names, s.name)
	}
	return &cobra.Command{
		Use:   "completion " + strings.Join(names, "|"),
		Short: "Let a shell complete commands and flags",
		Long: "Print a script that lets a shell complete adit's commands and flags.\n\n" +
			"In bash, with the package bash-completion, for all users or for one:\n\n" +
			"  adit completion bash | sudo tee /etc/bash_completion.d/adit >/dev/null\n" +
			"  echo 'source <(adit completion bash)' >> ~/.bashrc\n\n" +
			"In zsh:\n\n" +
			"  echo 'source <(adit completion zsh)' >> ~/.zshrc\n\n" +
			"In fish:\n\n" +
			"  adit completion fish > ~/.config/fish/completions/adit.fish\n\n" +
			"It counts for shells that are started after that.",
		Args:      cobra.ExactArgs(1),
		ValidArgs: names,
		RunE: func(c *cobra.Command, args []string) error {
			for _, s := range shells {
				if s.name == args[0] {
					return s.write(c.Root(), p.out)
				}
			}
			return usagef("completion %q: %s are allowed", args[0], strings.Join(names, ", "))
		},
	}
}

// isCompletion reports whether c is what completion scripts call.
func isCompletion(c *cobra.Command) bool {
	return c.Name() == cobra.ShellCompRequestCmd || c.Name() == cobra.ShellCompNoDescRequestCmd
}

// addCompletions lets shells complete what c takes.
func addCompletions(c *cobra.Command) {
	for name, words := range choices {
		if c.Flags().Lookup(name) != nil {
			completeWith(c, name, words)
		}
	}
	if c.Flags().Lookup("config") != nil {
		c.MarkFlagFilename("config", "yaml", "yml")
	}
	if c.Flags().Lookup("data-dir") != nil {
		c.MarkFlagDirname("data-dir")
	}
	if c.ValidArgs == nil && c.ValidArgsFunction == nil && !strings.Contains(c.Use, " ") {
		c.ValidArgsFunction = cobra.NoFileCompletions
	}
}

// completeWith lets shells complete a flag with one of these words.
func completeWith(c *cobra.Command, flag string, words []string) {
	if _, ok := c.GetFlagCompletionFunc(flag); ok {
		return // it knows better
	}
	err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic("completion of --" + flag + ": " + err.Error())
	}
}
