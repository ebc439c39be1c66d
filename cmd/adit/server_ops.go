package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"adit/admin"
	"adit/metrics"
	"adit/server"
	"adit/session"
)

// blockFile is the name of the file with blocked names in the data directory.
const blockFile = "blocks.json"

// opsFlags are the flags of adit server for those who operate it.
type opsFlags struct {
	admin      adminFlags
	drainDelay time.Duration

	budget *session.Budget // of the sessions' buffers
}

func (f *opsFlags) add(fl *pflag.FlagSet, p *program) {
	f.admin.p = p
	f.admin.add(fl)
	fl.DurationVar(&f.drainDelay, "drain-delay", 0, "how long visitors are still taken when the server is told to stop, but /readyz says no: time for load balancers to notice")
}

// newBudget returns the budget of the sessions' buffers.
func (f *opsFlags) newBudget(bytes int64) *session.Budget {
	f.budget = session.NewBudget(bytes)
	return f.budget
}

// apply puts the flags into the server's options.
func (f *opsFlags) apply(opts *server.Options, dataDir string) error {
	if f.drainDelay < 0 || f.drainDelay > time.Hour {
		return usagef("--drain-delay %v: 0s to 1h are allowed", f.drainDelay)
	}
	opts.DrainDelay = f.drainDelay
	opts.BlockFile = filepath.Join(dataDir, blockFile)
	opts.Version = versionString()
	return nil
}

// run runs s, and what operators see of it, which ends after it: it says how
// the drain goes.
func (f *opsFlags) run(ctx context.Context, s *server.Server, a *adminServer) error {
	stop, err := a.start(func(o *admin.Options) {
		o.Server = s
		o.Metrics = metrics.Handler(metrics.Registry(versionString(), metrics.NewServer(s, f.budget)))
	})
	if err != nil {
		return err
	}
	defer stop()
	return s.Run(ctx)
}
