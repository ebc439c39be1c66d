package main

import (
	"github.com/spf13/pflag"

	"adit/auth"
	"adit/config"
	"adit/server"
)

const (
	maxForwards     = 8192      // streams of one session to targets at a time
	allForwards     = 10000     // default of --max-forwards
	maxForwardLimit = 1_000_000 // that --max-forwards takes
)

// forwardRuleFlags are where a server connects agents to.
type forwardRuleFlags struct {
	rules      []string
	max        int
	perSubject int
}

func (f *forwardRuleFlags) add(fl *pflag.FlagSet) {
	fl.StringSliceVar(&f.rules, "forward", nil, "where agents may have the server connect them, such as 'db.internal:5432', '10.0.0.0/8:*' or '@office/ssh'; tokens have to allow it too (default nowhere)")
	fl.IntVar(&f.max, "max-forwards", allForwards, "connections that agents may have to such targets at a time, all together")
	fl.IntVar(&f.perSubject, "max-forwards-per-subject", 0, "those of them with tokens of one subject; 0 for its fair share")
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
	if f.max < 1 || f.max > maxForwardLimit {
		problems = append(problems, usagef("--max-forwards %d: 1 to %d are allowed", f.max, maxForwardLimit))
	}
	if f.perSubject < 0 {
		problems = append(problems, usagef("--max-forwards-per-subject %d: 0 or more is allowed", f.perSubject))
	}
	opts.MaxForwards, opts.MaxForwardsPerSubject = f.max, f.perSubject
	return config.Join(problems...)
}

// streams is how many streams an agent may open.
func (f *forwardRuleFlags) streams() int {
	if len(f.rules) == 0 {
		return 0
	}
	return maxForwards
}
