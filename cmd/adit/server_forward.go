package main

import (
	"github.com/spf13/pflag"

	"adit/auth"
	"adit/config"
	"adit/server"
)

// maxForwards is how many streams an agent may have open to targets at a time.
const maxForwards = 8192

// forwardRuleFlags are where a server connects agents to.
type forwardRuleFlags struct {
	rules []string
}

func (f *forwardRuleFlags) add(fl *pflag.FlagSet) {
	fl.StringSliceVar(&f.rules, "forward", nil, "where agents may have the server connect them, such as 'db.internal:5432', '10.0.0.0/8:*' or '@office/ssh'; tokens have to allow it too (default nowhere)")
}

func (f *forwardRuleFlags) apply(opts *server.Options) error {
	var problems []error
	for _, text := range f.rules {
		r, err := auth.ParseForwardRule(text)
		if err != nil {
			problems = append(problems, usagef("--forward: %v", err))
		}
		opts.Forward = append(opts.Forward, r)
	}
	return config.Join(problems...)
}

// streams is how many streams an agent may open.
func (f *forwardRuleFlags) streams() int {
	if len(f.rules) == 0 {
		return 0
	}
	return maxForwards
}
