package main

import (
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

// applyEnvironment sets the flags of c that are not on the command line from
// the environment. A variable that no command knows is an error: it would be a
// setting that somebody relies on and that does nothing.
func applyEnvironment(root, c *cobra.Command, environ []string) error {
	known := map[string]bool{envToken: true}
	for _, sub := range append(root.Commands(), root) {
		sub.Flags().VisitAll(func(f *pflag.Flag) { known[envName(f.Name)] = true })
	}
	values := make(map[string]string)
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, envPrefix) {
			continue
		}
		if !known[name] {
			return usagef("the environment has %s, which is no setting of adit", name)
		}
		values[name] = value
	}
	var err error
	c.Flags().VisitAll(func(f *pflag.Flag) {
		value, ok := values[envName(f.Name)]
		if !ok || f.Changed || f.Name == "help" || err != nil {
			return
		}
		if serr := c.Flags().Set(f.Name, value); serr != nil {
			err = usagef("the environment's %s: %v", envName(f.Name), serr)
		}
	})
	return err
}
