package main

import (
	"path/filepath"
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
	fl.StringVar(&f.carrier, "carrier", string(native.Auto), "how to cross the network: websocket, stream where upgrades are stripped, poll where answers are held back too, quic for a server with --quic-listen, or auto for the best of the first three that works")
}

// apply puts the carrier into the options of an agent.
func (f *carrierFlags) apply(p *program, o *agent.Options) error {
	o.Carrier = native.Carrier(f.carrier)
	if o.Carrier == native.Auto {
		file := filepath.Join(p.dataDir(), "carriers.json")
		if !filepath.IsAbs(file) {
			file = "" // there is no home
		}
		o.Chooser = native.NewChooser(file, nil)
		return nil
	}
	if slices.Contains(native.Carriers, o.Carrier) || o.Carrier == native.QUIC {
		return nil
	}
	names := []string{string(native.Auto)}
	for _, c := range native.Carriers {
		names = append(names, string(c))
	}
	names = append(names, string(native.QUIC))
	return usagef("--carrier %q: %s are allowed", f.carrier, strings.Join(names, ", "))
}
