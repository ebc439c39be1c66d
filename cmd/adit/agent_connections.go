package main

import (
	"github.com/spf13/pflag"

	"adit/agent"
	"adit/dialect/native"
)

// connectionFlags are how many connections an agent has to its server.
type connectionFlags struct {
	n int
}

func (f *connectionFlags) add(fl *pflag.FlagSet) {
	fl.IntVar(&f.n, "connections", 1, "connections to the server at a time, so that one that loses packets does not hold up everything; up to 16")
}

func (f *connectionFlags) apply(o *agent.Options) error {
	if f.n < 1 || f.n > native.MaxConnections {
		return usagef("--connections %d: 1 to %d are allowed", f.n, native.MaxConnections)
	}
	o.Connections = f.n
	return nil
}
