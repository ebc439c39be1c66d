package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"sync"

	"github.com/spf13/pflag"

	"adit/admin"
	"adit/auth"
	"adit/config"
)

// adminTokenFile is the name of the admin token's file in the data directory.
const adminTokenFile = "admin-token"

// adminFlags are the flags of commands that can be asked how they are.
type adminFlags struct {
	p             *program
	address       string
	tokenFile     string
	readTokenFile string
	hosts         []string
	openMetrics   bool
}

func (f *adminFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.address, "admin", "", "address for operators: health, metrics, API and profiles, such as 127.0.0.1:9090 or unix:/run/adit/admin.sock (default none)")
	fl.StringVar(&f.tokenFile, "admin-token-file", "", "file with the token for --admin, instead of the one in the data directory")
	fl.StringVar(&f.readTokenFile, "admin-read-token-file", "", "file with a second token, which is for looking only: for Prometheus, say")
	fl.StringSliceVar(&f.hosts, "admin-hosts", nil, "names by which --admin is reached, besides localhost and addresses")
	fl.BoolVar(&f.openMetrics, "admin-open-metrics", false, "let whoever reaches --admin have the metrics without a token")
}

// An adminServer listens at the admin address. A nil one does nothing.
type adminServer struct {
	ln   net.Listener
	opts admin.Options
	log  *slog.Logger
}

// check looks at the flags, and opens nothing.
func (f *adminFlags) check() error {
	if f.address != "" {
		if err := admin.CheckAddress(f.address); err != nil {
			return usagef("--admin %v", err)
		}
		return nil
	}
	var problems []error
	for _, of := range []struct {
		name string
		set  bool
	}{
		{"admin-hosts", len(f.hosts) > 0},
		{"admin-open-metrics", f.openMetrics},
		{"admin-read-token-file", f.readTokenFile != ""},
		{"admin-token-file", f.tokenFile != ""},
	} {
		if of.set {
			problems = append(problems, usagef("--%s is of no use without --admin", of.name))
		}
	}
	return config.Join(problems...)
}

// open listens at the admin address, if there is one. dataDir is where the
// token is.
func (f *adminFlags) open(dataDir string, log *slog.Logger) (*adminServer, error) {
	if err := f.check(); err != nil || f.address == "" {
		return nil, err
	}
	a := &adminServer{log: log, opts: admin.Options{Hosts: f.hosts, OpenMetrics: f.openMetrics, Logger: log}}
	var err error
	if a.opts.Token, err = f.token(dataDir, log); err != nil {
		return nil, err
	}
	if f.readTokenFile != "" {
		if a.opts.ReadToken, err = loadAdminToken("admin-read-token-file", f.readTokenFile); err != nil {
			return nil, err
		}
	}
	if a.ln, err = admin.Listen(f.address); err != nil {
		return nil, fmt.Errorf("--admin: %w", err)
	}
	log.Info("admin address open", "listen", a.ln.Addr().String())
	if admin.Public(a.ln) {
		log.Warn("the admin address can be reached from other machines, and is not encrypted: let a firewall and TLS in front of it see to that")
	}
	return a, nil
}

// token loads the admin token, or makes it at the first start.
func (f *adminFlags) token(dataDir string, log *slog.Logger) (auth.Secret, error) {
	if f.tokenFile != "" {
		return loadAdminToken("admin-token-file", f.tokenFile)
	}
	token, created, err := auth.LoadOrCreateNamed(dataDir, adminTokenFile)
	if err != nil {
		return token, fmt.Errorf("admin token: %w", err)
	}
	if created {
		log.Info("admin token made", "path", filepath.Join(dataDir, adminTokenFile))
	}
	return token, nil
}

func loadAdminToken(flag, path string) (auth.Secret, error) {
	token, err := auth.LoadSecret(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("--%s: %w: make one with (umask 077; head -c 32 /dev/urandom | base64 > %s)", flag, err, path)
	case err != nil:
		err = fmt.Errorf("--%s: %w", flag, err)
	}
	return token, err
}

// start serves until stop is called. about completes the options.
func (a *adminServer) start(about func(*admin.Options)) (stop func(), err error) {
	if a == nil {
		return func() {}, nil
	}
	about(&a.opts)
	h, err := admin.New(a.opts)
	if err != nil {
		a.ln.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := admin.Serve(ctx, a.ln, h, a.log); err != nil {
			a.log.Error("admin address failed", "err", err)
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}, nil
}

// close is for one that is not started after all.
func (a *adminServer) close() {
	if a != nil {
		a.ln.Close()
	}
}
