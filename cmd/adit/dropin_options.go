package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// optionParser reads the options of a drop-in.
type optionParser struct {
	*pflag.FlagSet
}

func newOptionParser(name string) optionParser {
	fl := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fl.SetOutput(discard{})
	fl.Usage = func() {}
	fl.SortFlags = false
	return optionParser{fl}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// parse reads args. Long options may be shortened to what only one begins with.
func (o optionParser) parse(args []string) error {
	full := make([]string, len(args))
	copy(full, args)
	for i, arg := range full {
		if arg == "--" {
			break
		}
		name, ok := strings.CutPrefix(arg, "--")
		if !ok {
			continue
		}
		name, value, hasValue := strings.Cut(name, "=")
		var begins []string
		o.VisitAll(func(f *pflag.Flag) {
			if strings.HasPrefix(f.Name, name) {
				begins = append(begins, f.Name)
			}
		})
		if o.Lookup(name) == nil && len(begins) == 1 {
			full[i] = "--" + begins[0]
			if hasValue {
				full[i] += "=" + value
			}
		}
	}
	return o.Parse(full)
}

// fromEnvironment sets flags that are not on the command line from variables
// with adit's prefix. One that stands for no flag is an error: it would be a
// setting that somebody relies on and that does nothing.
func (o optionParser) fromEnvironment(p *program) error {
	for _, v := range p.environ {
		name, value, _ := strings.Cut(v, "=")
		flag, ok := strings.CutPrefix(name, envPrefix)
		if !ok {
			continue
		}
		f := o.Lookup(strings.ToLower(strings.ReplaceAll(flag, "_", "-")))
		if f == nil || envName(f.Name) != name {
			return fmt.Errorf("the environment has %s, which is no setting of %s", name, o.Name())
		}
		if f.Changed {
			continue
		}
		if err := o.Set(f.Name, value); err != nil {
			return fmt.Errorf("the environment's %s: %w", name, err)
		}
	}
	return nil
}
