package main

import (
	"context"
	"log/slog"
	"sync"

	"github.com/spf13/pflag"

	"adit/agent"
	"adit/forward"
)

// localForwardFlags are the forwards of an agent that has tunnels too.
type localForwardFlags struct {
	texts []string
}

func (f *localForwardFlags) add(fl *pflag.FlagSet) {
	fl.StringSliceVar(&f.texts, "forward", nil, "forwards to run beside the tunnels, as for adit forward, such as 5432:db.internal:5432")
}

func (f *localForwardFlags) specs() (specs []forward.Spec, err error) {
	for _, text := range f.texts {
		s, err := forward.ParseSpec(text)
		if err != nil {
			return nil, usagef("--forward: %v", err)
		}
		if s.Kind != forward.Direct && s.Kind != forward.Socks {
			return nil, usagef("--forward %q: R: is a tunnel here, and standard input and output are for adit stdio", text)
		}
		specs = append(specs, s)
	}
	return specs, nil
}

// start runs the forwards on a session of their own, until ctx ends or stop is
// called, which waits for their end. One that fails later is logged.
func (f *localForwardFlags) start(ctx context.Context, opts agent.Options, log *slog.Logger) (stop func(), err error) {
	specs, err := f.specs()
	if err != nil || len(specs) == 0 {
		return func() {}, err
	}
	opts.Tunnels, opts.Forwards, opts.Logger = nil, true, log
	a, err := agent.New(opts)
	if err != nil {
		return nil, err
	}
	locals, err := listenAll(specs, forward.Options{Open: a.OpenTarget, Logger: log})
	if err != nil {
		return nil, err
	}
	for i, l := range locals {
		log.Info("forwarding", "listen", l.Addr().String(), "target", targetOf(specs[i]))
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := runForwards(ctx, a, locals); err != nil {
			log.Error("forwards given up", "err", err)
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}, nil
}
