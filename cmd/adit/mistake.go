package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"adit/config"
)

// otherWords are what people may call a command or a flag, by what it is called
// here.
var (
	otherCommands = map[string][]string{
		"http":    {"expose", "share", "publish", "https", "web"},
		"server":  {"serve", "listen", "gateway"},
		"agent":   {"client", "connect", "run", "start"},
		"forward": {"fwd", "portforward", "port-forward"},
		"socks":   {"proxy", "socks5"},
		"stdio":   {"nc", "netcat"},
		"status":  {"ps", "ls", "list"},
		"token":   {"auth", "login", "secret"},
		"doctor":  {"diagnose", "ping", "test"},
		"cert":    {"ca", "certificate"},
	}
	otherFlags = map[string][]string{
		"id":          {"name", "subdomain"},
		"secret-file": {"token", "secret", "auth", "authtoken", "token-file"},
		"hostname":    {"host", "domain"},
		"port":        {"remote-port", "public-port"},
		"basic-auth":  {"auth", "password"},
		"allow-ip":    {"whitelist", "allow"},
		"log-level":   {"debug", "verbose", "quiet"},
		"screen":      {"no-screen"},
	}
)

// synonym returns the name, of those in names, that word stands for in words.
func synonym(word string, words map[string][]string, names []string) string {
	for _, name := range names {
		if slices.Contains(words[name], word) {
			return name
		}
	}
	return ""
}

// didYouMean returns the end of an error about a word that is none of names:
// what it may stand for, with before in front of that.
func didYouMean(before, word string, words map[string][]string, names []string) string {
	near := config.Nearest(word, names)
	if near == "" {
		near = synonym(word, words, names)
	}
	if near == "" {
		for _, name := range names { // the beginning of one alone
			if len(word) > 2 && strings.HasPrefix(name, word) {
				if near != "" {
					return ""
				}
				near = name
			}
		}
	}
	if near == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %s%s?", before, near)
}

// seeHelp is where c is explained.
func seeHelp(c *cobra.Command) string { return fmt.Sprintf(" (see %s --help)", c.CommandPath()) }

// unknownCommand is the error about a word that is no command of c.
func unknownCommand(c *cobra.Command, word string) error {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	hint := didYouMean(c.CommandPath()+" ", word, otherCommands, names)
	if !c.HasParent() {
		if info, err := os.Stat(word); isPort(word) || isFolder(word) && err == nil && info.IsDir() {
			hint = fmt.Sprintf(": did you mean %s http %s?", c.Name(), word)
		}
	}
	return usagef("%q is no command of %s%s%s", word, c.CommandPath(), hint, seeHelp(c))
}

func isPort(word string) bool {
	n, err := strconv.ParseUint(word, 10, 16)
	return err == nil && n > 0
}

// wrongArguments is the error about arguments that c does not take.
func wrongArguments(c *cobra.Command, given []string) error {
	if c.HasSubCommands() {
		return unknownCommand(c, given[0])
	}
	_, takes, _ := strings.Cut(c.Use, " ")
	want := ""
	if takes != "" && !strings.HasPrefix(takes, "-") {
		want = fmt.Sprintf(": want %s %s", c.CommandPath(), takes)
		if example := firstExample(c); example != "" {
			want += ", such as " + example
		}
	}
	switch {
	case want == "":
		return usagef("%s takes no arguments, and got %q%s", c.CommandPath(), given[0], seeHelp(c))
	case len(given) == 0:
		return usagef("%s is missing%s%s", strings.TrimSuffix(takes, "..."), want, seeHelp(c))
	}
	return usagef("%q is one argument too many%s%s", given[len(given)-1], want, seeHelp(c))
}

// firstExample returns the first line of c's examples that calls c itself.
func firstExample(c *cobra.Command) string {
	for line := range strings.Lines(c.Example) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, c.CommandPath()+" ") {
			return line
		}
	}
	return ""
}

// wrongFlag says what is wrong with a flag, and what could be meant.
func wrongFlag(c *cobra.Command, err error) error {
	if c.HasSubCommands() && c.Flags().NArg() > 0 {
		return unknownCommand(c, c.Flags().Arg(0)) // whose flag it would be
	}
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		word, dashes := unknown.GetSpecifiedName(), "--"
		if short := unknown.GetSpecifiedShortnames(); short != "" {
			word, _, _ = strings.Cut(short, "=") // and not what may be a secret
			dashes = "-"
		}
		return usagef("unknown flag: %s%s%s%s", dashes, word, flagMeant(c, word), seeHelp(c))
	}
	if without, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		f := without.GetFlag()
		return usagef("--%s needs a value: %s%s", f.Name, f.Usage, seeHelp(c))
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return usagef("%s%s", wrongValue("--"+invalid.GetFlag().Name, invalid), seeHelp(c))
	}
	return usagef("%v%s", err, seeHelp(c))
}

// flagMeant returns what an unknown flag of c may stand for.
func flagMeant(c *cobra.Command, word string) string {
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if hint := didYouMean("--", word, otherFlags, names); hint != "" {
		return hint
	}
	var others []string
	for _, other := range withSubcommands(c.Root()) {
		if f := other.Flags().Lookup(word); f != nil && !f.Hidden {
			others = append(others, other.CommandPath())
		}
	}
	if n := len(others); n > 0 && n <= 4 {
		return ": it is one of " + strings.Join(others, ", ")
	}
	return ""
}

// wrongValue says what a flag takes, as config puts it. name is what the value
// was given by.
func wrongValue(name string, invalid *pflag.InvalidValueError) string {
	f := invalid.GetFlag()
	if !config.IsSecret(f) {
		name += fmt.Sprintf(" %.64q", invalid.GetValue())
	}
	switch kind := f.Value.Type(); kind {
	case "string", "stringSlice", "stringArray":
		return fmt.Sprintf("%s: %v", name, errors.Unwrap(invalid))
	default:
		return name + ": want " + config.Wanted(kind)
	}
}
