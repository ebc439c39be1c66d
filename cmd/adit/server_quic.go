package main

import (
	"github.com/spf13/pflag"

	"adit/server"
)

// serverQUICFlags are where a server takes agents that use QUIC.
type serverQUICFlags struct {
	listen string
}

func (f *serverQUICFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.listen, "quic-listen", "", "UDP address for agents with --carrier quic, such as :443; it shows the certificates of --tls-cert (default none)")
}

func (f *serverQUICFlags) apply(opts *server.Options) error {
	if f.listen == "" {
		return nil
	}
	opts.QUICListen = f.listen
	return checkAddress("quic-listen", f.listen)
}
