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

// original says which options the program itself has. They are not in the list
// of adit's.
func (o optionParser) original(names ...string) {
	for _, name := range names {
		o.Lookup(name).Hidden = true
	}
}

// parse reads args. Long options may be shortened to what only one begins with,
// of the program's own options if there is one among them.
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
		var begins, originals []string
		o.VisitAll(func(f *pflag.Flag) {
			switch {
			case !strings.HasPrefix(f.Name, name):
			case f.Hidden:
				originals = append(originals, f.Name)
			default:
				begins = append(begins, f.Name)
			}
		})
		if len(originals) > 0 {
			begins = originals
		}
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
