package main

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"adit/agent"
	"adit/dialect/native"
)

// carrierFlags are the flags that say how an agent's bytes cross the network.
type carrierFlags struct {
	carrier string
}

func (f *carrierFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.carrier, "carrier", string(native.WebSocket), "how to cross the network: websocket, stream where upgrades are stripped, poll where answers are held back too, or quic for a server with --quic-listen")
}

// apply puts the carrier into the options of an agent.
func (f *carrierFlags) apply(o *agent.Options) error {
	o.Carrier = native.Carrier(f.carrier)
	if slices.Contains(native.Carriers, o.Carrier) || o.Carrier == native.QUIC {
		return nil
	}
	var names []string
	for _, c := range native.Carriers {
		names = append(names, string(c))
	}
	names = append(names, string(native.QUIC))
	return usagef("--carrier %q: %s are allowed", f.carrier, strings.Join(names, ", "))
}
