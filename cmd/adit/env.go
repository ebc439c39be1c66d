package main

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// envPrefix begins the variables that set flags: --secret-file is
// ADIT_SECRET_FILE.
const envPrefix = "ADIT_"

// envToken holds a credential itself. It has no flag, because the arguments of
// a process are for everybody to see.
const envToken = envPrefix + "TOKEN"

func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// getenv returns a variable, and empty text if it is not set.
func (p *program) getenv(name string) (value string) {
	for _, v := range p.environ {
		if n, rest, _ := strings.Cut(v, "="); n == name {
			value = rest // the last one counts, as for os.Getenv after os/exec
		}
	}
	return value
}

// applyEnvironment sets the flags of c that are not on the command line from
// the environment. A variable that no command knows is an error: it would be a
// setting that somebody relies on and that does nothing.
func (p *program) applyEnvironment(root, c *cobra.Command) error {
	if isCompletion(c) {
		return nil // it has no settings, and nobody would see what is wrong
	}
	known := map[string]bool{envToken: true, envWebhookSecret: true}
	for _, sub := range withSubcommands(root) {
		sub.Flags().VisitAll(func(f *pflag.Flag) {
			if isSetting(f) {
				known[envName(f.Name)] = true
			}
		})
	}
	values := make(map[string]string)
	for _, v := range p.environ {
		name, value, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, envPrefix) {
			continue
		}
		if !known[name] {
			hint := didYouMean("", name, nil, slices.Sorted(maps.Keys(known)))
			return usagef("the environment has %s, which is no setting of adit%s (see adit --help)", name, hint)
		}
		values[name] = value
	}
	if name := unheeded(c.Flags(), values); name != "" {
		return usagef("the environment has %s, which %s does not know: the rule would not be enforced", name, c.CommandPath())
	}
	var err error
	c.Flags().VisitAll(func(f *pflag.Flag) {
		value, ok := values[envName(f.Name)]
		if !ok || f.Changed || !isSetting(f) || err != nil {
			return
		}
		if serr := c.Flags().Set(f.Name, value); serr != nil {
			name := "the environment's " + envName(f.Name)
			if invalid, ok := errors.AsType[*pflag.InvalidValueError](serr); ok {
				err = usagef("%s", wrongValue(name, invalid))
			} else {
				err = usagef("%s: %v", name, serr)
			}
		}
	})
	return err
}

// isSetting reports whether a flag does more than to print something.
func isSetting(f *pflag.Flag) bool { return f.Name != "help" && f.Name != "version" }

// dataDir is where a server keeps what must last, unless it is told otherwise:
// systemd's state directory for a service, or that of the XDG base directory
// specification.
func (p *program) dataDir() string {
	if dir, _, _ := strings.Cut(p.getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	if dir := p.getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "adit")
	}
	home := p.getenv("HOME")
	if home == "" {
		var err error
		if home, err = os.UserHomeDir(); err != nil {
			return "adit-data"
		}
	}
	return filepath.Join(home, ".local", "state", "adit")
}
