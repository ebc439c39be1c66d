package main

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"adit/config"
)

// addConfig adds --config, for commands whose flags can be set by a file too.
func addConfig(fl *pflag.FlagSet, path *string, what string) {
	fl.StringVar(path, "config", "", what)
	fl.SetAnnotation("config", config.NotInFile, []string{"true"})
}

// A given is a flag that was set on the command line or by the environment.
type given struct {
	name   string
	values []string
}

// givenFlags returns the flags of fl that are set.
func givenFlags(fl *pflag.FlagSet) (all []given) {
	fl.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			all = append(all, given{f.Name, valuesOf(f)})
		}
	})
	return all
}

// valuesOf returns a flag's value in the form that setValues takes.
func valuesOf(f *pflag.Flag) []string {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return list.GetSlice()
	}
	return []string{f.Value.String()}
}

// setValues sets a flag to what valuesOf returned of one like it.
func setValues(f *pflag.Flag, values []string) error {
	f.Changed = true
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return list.Replace(values)
	}
	return f.Value.Set(values[0])
}

// applyGiven sets flags of fl to the same as others were.
func applyGiven(fl *pflag.FlagSet, all []given) error {
	for _, g := range all {
		if f := fl.Lookup(g.name); f != nil {
			if err := setValues(f, g.values); err != nil {
				return err
			}
		}
	}
	return nil
}

// differing returns the names of the flags that a and b have with different
// values.
func differing(a, b *pflag.FlagSet) (names []string) {
	a.VisitAll(func(f *pflag.Flag) {
		if g := b.Lookup(f.Name); g != nil && !slices.Equal(valuesOf(f), valuesOf(g)) {
			names = append(names, f.Name)
		}
	})
	return names
}

// leadingFlag matches the flag that the text of an error begins with.
var leadingFlag = regexp.MustCompile(`^--([a-z0-9-]+)`)

// locate puts the place in the file into errors that begin with the name of a
// flag, if that was set by s. By a convention of this package, all errors about
// a flag do.
func locate(s *config.Section, err error) error {
	if s == nil {
		return err
	}
	var all []error
	for _, e := range config.Problems(err) {
		if m := leadingFlag.FindStringSubmatch(e.Error()); m != nil {
			if st := s.Setting(m[1]); st != nil && st.Applied() {
				e = st.Wrap(strings.TrimPrefix(e.Error(), "--"), e)
			}
		}
		all = append(all, e)
	}
	return config.Join(all...)
}

// exitCode is that of a program that ends with err. Of several errors a failure
// goes before what was said in a wrong way.
func exitCode(err error) int {
	code := exitDone
	for _, e := range config.Problems(err) {
		p, isProblem := errors.AsType[*config.Problem](e)
		_, isUsage := errors.AsType[*usageError](e)
		if !isUsage && !(isProblem && p.Err == nil) {
			return exitFailed
		}
		code = exitUsage
	}
	return code
}
