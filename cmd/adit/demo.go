package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"adit/agent"
	"adit/auth"
	"adit/dialect"
	"adit/dialect/native"
	"adit/server"
)

func (p *program) demoCommand() *cobra.Command {
	var log logFlags
	var onScreen screenFlags
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show a tunnel at work, all on this machine",
		Long: "Start a server, an agent and a small site in one process on loopback, and print\n" +
			"where to look. Nothing is reachable from outside, and nothing stays behind.",
		Example: "  adit demo",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.runDemo(c.Context(), log, onScreen)
		},
	}
	log.add(c.Flags(), true)
	onScreen.add(c.Flags())
	return c
}

func (p *program) runDemo(ctx context.Context, lf logFlags, sf screenFlags) error {
	if lf.level == "" {
		lf.level = "error"
	}
	d, err := p.newDisplay(sf, lf)
	if err != nil {
		return err
	}
	log := d.log
	site, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("sample site: %w", err)
	}
	sample := &http.Server{Handler: sampleSite(), ReadHeaderTimeout: 10 * time.Second}
	defer sample.Close()
	go sample.Serve(site)

	secret := auth.NewSecret()
	authenticator, err := auth.NewAuthenticator(auth.Options{Secrets: []auth.Secret{secret}})
	if err != nil {
		return err
	}
	upstream, err := agent.ParseUpstream(site.Addr().String())
	if err != nil {
		return err
	}
	s, err := server.New(server.Options{
		Listen:   "127.0.0.1:0",
		PathMode: true,
		Dialects: []dialect.Dialect{native.New(native.Options{Logger: log})},
		Auth:     authenticator,
		Grace:    time.Second,
		Logger:   log,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		served <- s.Run(ctx)
		cancel()
	}()
	opts := agent.Options{
		Server:  s.URL(),
		Token:   func() (string, error) { return secret.Reveal(), nil },
		Tunnels: []agent.Tunnel{{ID: "demo", Kind: dialect.HTTP, Upstream: upstream}},
		Logger:  log,
	}
	stop, err := p.present(ctx, d, &opts, s.Addr())
	if err == nil {
		err = agent.Run(ctx, opts)
		stop()
	}
	cancel()
	return errors.Join(err, <-served)
}

// present says where to look, before the agent runs or once it is connected.
// The caller calls stop when it has ended.
func (p *program) present(ctx context.Context, d *display, opts *agent.Options, at netip.AddrPort) (stop func(), err error) {
	picture := fmt.Sprintf("A sample site, through a tunnel:\n\n  you  -->  server %s  ==>  agent  -->  site %s\n\n",
		at, opts.Tunnels[0].Upstream)
	if d.onScreen {
		io.WriteString(p.out, picture+"Open an address in a browser: what it asks for shows up below.\n\n")
		if stop, err = d.start(ctx, opts.Server); err == nil {
			d.join(opts)
		}
		return stop, err
	}
	var once sync.Once
	opts.OnState = func(s agent.State) {
		if s.Phase == agent.Connected {
			once.Do(func() {
				fmt.Fprintf(p.out, "%s\n\n%sCtrl-C ends it.\n", strings.Join(s.Bound[0].URLs, "\n"), picture)
			})
		}
	}
	return func() {}, nil
}

//go:embed demo.html
var demoHTML string

var demoPage = template.Must(template.New("demo").Parse(demoHTML))

// sampleSite is a page that shows how the request arrived, and a stream of
// events that keeps it moving.
func sampleSite() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		demoPage.Execute(w, r)
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			if _, err := fmt.Fprintf(w, "data: %s\n\n", time.Now().Format(time.TimeOnly)); err != nil {
				return
			}
			http.NewResponseController(w).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	return mux
}
