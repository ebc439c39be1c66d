package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"adit/internal/screen"
)

// statusFlags are the flags of adit status.
type statusFlags struct {
	p         *program
	admin     string
	tokenFile string
	dataDir   string
	json      bool
}

func (p *program) statusCommand() *cobra.Command {
	f := statusFlags{p: p}
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the agents on this machine, or what a server carries",
		Long: "Show the agents that run on this machine as this user or as services. With --admin\n" +
			"show the tunnels, sessions and routes of a server. The exit code is 1 if nothing runs.",
		Example: "  adit status\n  adit status --admin 127.0.0.1:9090\n  adit status --admin unix:/run/adit/admin.sock --json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.admin != "" {
				return f.ask(c.Context(), f.server)
			}
			if f.tokenFile != "" {
				return usagef("--admin-token-file is of no use without --admin")
			}
			return f.agents()
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.admin, "admin", "", "address for operators of a server, as given to adit server, or its URL")
	fl.StringVar(&f.tokenFile, "admin-token-file", "", "file with the server's admin token, instead of the one in --data-dir")
	fl.StringVar(&f.dataDir, "data-dir", p.dataDir(), "folder of a server on this machine")
	fl.BoolVar(&f.json, "json", false, "print JSON")
	return c
}

// serviceReportDirs are where agents that are services of this machine have
// their sockets; see packaging/systemd.
var serviceReportDirs = []string{"/run/adit", "/var/lib/adit/agents"}

// agents shows the agents of this machine.
func (f *statusFlags) agents() error {
	reports, denied := readReports(append([]string{f.p.reportDir()}, f.p.serviceDirs...))
	if f.json {
		if err := f.printJSON(map[string]any{"agents": reports}); err != nil {
			return err
		}
	} else {
		f.printAgents(reports)
	}
	if len(reports) > 0 {
		return nil
	}
	if denied {
		return errors.New("no agent of this user runs here; root sees those that are services")
	}
	return errors.New("no agent runs here; --admin asks a server")
}

func (f *statusFlags) printJSON(v any) error {
	e := json.NewEncoder(f.p.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// readReports asks all agents with sockets in these folders. denied says that
// there may be more, which are not ours to ask.
func readReports(dirs []string) (reports []agentReport, denied bool) {
	reports = []agentReport{}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		if _, err := os.ReadDir(dir); errors.Is(err, fs.ErrPermission) {
			denied = true
			continue
		}
		paths, _ := filepath.Glob(filepath.Join(dir, reportPattern))
		for _, path := range paths {
			r, err := readReport(path)
			switch {
			case err == nil:
				reports = append(reports, r)
			case errors.Is(err, fs.ErrPermission):
				denied = true
			}
		}
	}
	slices.SortFunc(reports, func(a, b agentReport) int { return a.Started.Compare(b.Started) })
	return reports, denied
}

func readReport(path string) (r agentReport, err error) {
	c, err := net.DialTimeout("unix", path, reportTimeout)
	if err != nil {
		return r, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(reportTimeout))
	return r, json.NewDecoder(io.LimitReader(c, maxReport)).Decode(&r)
}

func (f *statusFlags) printAgents(reports []agentReport) {
	st := f.p.tableStyle()
	for i, r := range reports {
		if i > 0 {
			fmt.Fprintln(f.p.out)
		}
		parts := []string{string(r.State) + " for " + ago(r.Since), r.Server}
		if r.State == screen.Connected && r.RoundTrip > 0 {
			parts = append(parts, "round trip "+screen.RoundTrip(seconds(r.RoundTrip)))
		}
		if r.State == screen.Connected && r.Carrier != "" {
			parts = append(parts, "by "+r.Carrier)
		}
		if r.Wanted > 0 {
			parts = append(parts, fmt.Sprintf("%d of %d sessions", r.Up, r.Wanted))
		}
		parts = append(parts, fmt.Sprintf("%s, %d open", screen.Count(r.Opened, "connection"), r.Streams), fmt.Sprintf("process %d", r.PID))
		fmt.Fprintln(f.p.out, st.Clean(strings.Join(parts, "  ")))
		if r.Reason != "" {
			fmt.Fprintln(f.p.out, "  "+st.Clean(r.Reason))
		}
		rows := [][]string{nil}
		for _, t := range r.Tunnels {
			rows = append(rows, tunnelRows(t)...)
		}
		for _, line := range st.Table(rows) {
			fmt.Fprintln(f.p.out, "  "+line)
		}
	}
}

// tunnelRows has a row for each address of a tunnel.
func tunnelRows(t tunnelReport) (rows [][]string) {
	health := t.Problem
	switch {
	case t.Answers == nil:
	case *t.Answers:
		health = "answers"
	default:
		health = "does not answer: " + health
	}
	url := "-"
	if len(t.URLs) > 0 {
		url = t.URLs[0]
	}
	rows = [][]string{{t.ID, t.Kind, url, "->", t.Upstream, health}}
	for i, u := range t.URLs {
		if i > 0 {
			rows = append(rows, []string{"", "", u})
		}
	}
	return rows
}

// tableStyle is that of tables on standard output.
func (p *program) tableStyle() screen.Style {
	return screen.Style{Plain: !p.person || p.getenv("TERM") == "dumb", Unicode: !p.person || p.unicode()}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
