package main

import (
	"github.com/spf13/pflag"

	"adit/server"
)

// serverDoctorFlags are whether a server lets the way to it be examined.
type serverDoctorFlags struct {
	answer bool
}

func (f *serverDoctorFlags) add(fl *pflag.FlagSet) {
	fl.BoolVar(&f.answer, "doctor", true, "answer adit doctor, which needs no credential")
}

func (f *serverDoctorFlags) apply(opts *server.Options) { opts.NoDoctor = !f.answer }
