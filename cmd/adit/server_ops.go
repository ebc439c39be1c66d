package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"adit/accesslog"
	"adit/admin"
	"adit/config"
	"adit/metrics"
	"adit/server"
	"adit/session"
	"adit/tracing"
)

// blockFile is the name of the file with blocked names in the data directory.
const blockFile = "blocks.json"

// routeFile is the name of the file with the routes there.
const routeFile = "routes.json"

// traceTimeout bounds the sending of what was traced last.
const traceTimeout = 3 * time.Second

// opsFlags are the flags of adit server for those who operate it.
type opsFlags struct {
	admin      adminFlags
	drainDelay time.Duration
	accessLog  string
	accessFile string
	traces     traceFlags

	budget *session.Budget // of the sessions' buffers
}

func (f *opsFlags) add(fl *pflag.FlagSet, p *program) {
	f.admin.p = p
	f.admin.add(fl)
	f.traces.add(fl, p)
	fl.DurationVar(&f.drainDelay, "drain-delay", 0, "how long visitors are still taken when the server is told to stop, but /readyz says no: time for load balancers to notice")
	fl.StringVar(&f.accessLog, "access-log", "off", "a line for each request of a visitor: json, combined or off")
	fl.StringVar(&f.accessFile, "access-log-file", "-", "where these go: a file, which SIGHUP opens anew, or - for the output")
}

// newBudget returns the budget of the sessions' buffers.
func (f *opsFlags) newBudget(bytes int64) *session.Budget {
	f.budget = session.NewBudget(bytes)
	return f.budget
}

// apply puts the flags into the server's options. It opens nothing.
func (f *opsFlags) apply(opts *server.Options, dataDir string) error {
	opts.DrainDelay = f.drainDelay
	opts.BlockFile = filepath.Join(dataDir, blockFile)
	opts.Version = versionString()
	problems := []error{f.admin.check()}
	wrong := func(err error) { problems = append(problems, err) }
	if f.drainDelay < 0 || f.drainDelay > time.Hour {
		wrong(usagef("--drain-delay %v: 0s to 1h are allowed", f.drainDelay))
	}
	if f.accessLog == "off" {
		if f.accessFile != "-" {
			wrong(usagef("--access-log-file %s: nothing is written there without --access-log", f.accessFile))
		}
	} else if _, err := accesslog.ParseFormat(f.accessLog); err != nil {
		wrong(usagef("--access-log %q: json, combined and off are allowed", f.accessLog))
	}
	_, err := f.traces.options()
	wrong(err)
	return config.Join(problems...)
}

// An operation is what operators have of a server, beside its log.
type operation struct {
	admin  *adminServer   // nil if there is none
	access *accesslog.Log // the same
	tracer *tracing.Tracer
	parts  []prometheus.Collector
}

// open opens the admin address and the access log, and puts into opts what they
// need of the server.
func (f *opsFlags) open(opts *server.Options, dataDir string) (*operation, error) {
	o := &operation{}
	var err error
	if f.accessLog != "off" {
		if o.access, err = f.openAccessLog(opts.Logger); err != nil {
			return nil, err
		}
		opts.OnRequest = o.access.Record
		opts.Reload = append(opts.Reload, server.Reloader{Name: "access log", Prepare: o.access.Prepare})
		o.parts = append(o.parts, metrics.NewAccessLog(o.access))
	}
	if o.tracer, err = f.traces.open(opts.Logger); err != nil {
		o.close()
		return nil, err
	} else if o.tracer != nil {
		opts.Tracer = o.tracer
		o.parts = append(o.parts, metrics.NewTracing(o.tracer))
	}
	if o.admin, err = f.admin.open(dataDir, opts.Logger); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func (f *opsFlags) openAccessLog(log *slog.Logger) (*accesslog.Log, error) {
	ao := accesslog.Options{
		Path:   f.accessFile,
		Format: accesslog.Format(f.accessLog),
		OnError: func(err error) {
			if err != nil {
				log.Error("access log not written", "err", err)
			} else {
				log.Info("access log written again")
			}
		},
	}
	if ao.Path == "-" {
		ao.Path, ao.Writer = "", f.admin.p.out
	}
	return accesslog.Open(ao)
}

// close is for an operation that is not run after all, and ends the rest of one
// that was.
func (o *operation) close() {
	o.admin.close()
	if o.access != nil {
		o.access.Close()
	}
	if o.tracer != nil {
		ctx, cancel := context.WithTimeout(context.Background(), traceTimeout)
		defer cancel()
		o.tracer.Close(ctx)
	}
}

// run runs s, and what operators see of it, which ends after it: it says how
// the drain goes.
func (f *opsFlags) run(ctx context.Context, s *server.Server, o *operation) error {
	defer o.close()
	parts := append(o.parts, metrics.NewServer(s, f.budget))
	stop, err := o.admin.start(func(ao *admin.Options) {
		ao.Server = s
		ao.Metrics = metrics.Handler(metrics.Registry(versionString(), parts...))
	})
	if err != nil {
		return err
	}
	defer stop()
	return s.Run(ctx)
}
