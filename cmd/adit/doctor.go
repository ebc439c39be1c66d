package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"adit/agent"
	"adit/doctor"
	"adit/internal/screen"
)

// doctorFlags are the flags of adit doctor.
type doctorFlags struct {
	p        *program
	server   string
	caFile   string
	out      wayOutFlags
	thorough bool
	json     bool

	clear string // empties the last line of a terminal, on which something passes by
}

func (f *doctorFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.server, "server", "ws://localhost:8080", "URL of the server: ws:// or, with TLS, wss://")
	fl.StringVar(&f.caFile, "ca-file", "", "file with certificates of authorities to trust for wss://, besides the system's")
	f.out.add(fl)
	fl.BoolVar(&f.thorough, "thorough", false, "take 5 minutes, to find out for how long a connection may be silent")
	fl.BoolVar(&f.json, "json", false, "print JSON")
}

// errDegraded is for the exit code: what is wrong has been printed.
var errDegraded = errors.New("")

func (p *program) doctorCommand() *cobra.Command {
	f := doctorFlags{p: p}
	c := &cobra.Command{
		Use:   "doctor [URL]",
		Short: "Find out what is in the way to the server",
		Long: "Take each step of a connection to the server by itself, measure what each carrier\n" +
			"is good for, and say what is wrong and what to do about it. It takes less than half\n" +
			"a minute and needs no credential. URL stands for --server.\n\n" +
			"The exit code is 0 if all is well, and 1 if something is not.",
		Example:           "  adit doctor wss://tunnel.example.com\n  adit doctor --thorough --json wss://tunnel.example.com",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				f.server = args[0]
			}
			return f.run(c.Context())
		},
	}
	f.add(c.Flags())
	return c
}

func (f *doctorFlags) run(ctx context.Context) error {
	if err := checkServer(f.server); err != nil {
		return err
	}
	agent := agent.Options{Server: f.server}
	var err error
	if agent.TLS, err = tlsConfig(f.caFile); err == nil {
		err = f.out.apply(f.p, &agent)
	}
	if err != nil {
		return err
	}
	opts := doctor.Options{
		Server:    f.server,
		TLS:       agent.TLS,
		Out:       agent.Out,
		ProxyFrom: f.proxyFrom(),
		Host:      agent.Host,
		Header:    agent.Header,
		Thorough:  f.thorough,
	}
	if !f.json {
		fmt.Fprintf(f.p.out, "The way to %s\n\n", f.style().Clean(f.server))
		opts.OnStep = func(s doctor.Step) {
			if ctx.Err() == nil { // and it is not only that it was told to stop
				f.printStep(s)
			}
		}
		if f.p.terminal != nil {
			opts.OnBegin, f.clear = f.printBegin, "\r\x1b[K"
		}
	}
	report, err := doctor.Examine(ctx, opts)
	io.WriteString(f.p.out, f.clear)
	switch {
	case err != nil:
		return usagef("--server: %v", err)
	case ctx.Err() != nil:
		return errors.New("stopped before the end")
	case f.json:
		e := json.NewEncoder(f.p.out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		err = e.Encode(report)
	default:
		f.printCarriers(report)
		f.printFindings(report)
	}
	if err == nil && report.Status != doctor.OK {
		return errDegraded
	}
	return err
}

// proxyFrom says where the proxy is set.
func (f *doctorFlags) proxyFrom() string {
	if f.out.proxy != "" {
		return "--proxy or " + envName("proxy")
	}
	names := []string{"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}
	if !isTLS(f.server) {
		names = []string{"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"}
	}
	for _, name := range names {
		if f.p.getenv(name) != "" {
			return name
		}
	}
	return "the environment"
}

// isTLS reports whether a server's URL stands for one with TLS.
func isTLS(server string) bool {
	return strings.HasPrefix(server, "wss:") || strings.HasPrefix(server, "https:")
}

func (f *doctorFlags) style() screen.Style { return f.p.tableStyle() }

// Columns of what is printed, which fits in 80.
const (
	doctorColumns = 79
	doctorIndent  = 21
)

var doctorMarks = map[doctor.Status]string{
	doctor.OK:      "ok",
	doctor.Warning: "warning",
	doctor.Failed:  "FAILED",
	doctor.Skipped: "-",
}

// printBegin shows on the last line what takes time now.
func (f *doctorFlags) printBegin(what string) {
	fmt.Fprintf(f.p.out, "%s  ...      %s", f.clear, f.style().Wrap(what, doctorColumns-doctorIndent)[0])
}

func (f *doctorFlags) printStep(s doctor.Step) {
	io.WriteString(f.p.out, f.clear)
	st := f.style()
	for i, line := range st.Wrap(s.Text, doctorColumns-doctorIndent) {
		mark, name := "", ""
		if i == 0 {
			mark, name = doctorMarks[s.Status], s.Name
		}
		fmt.Fprintf(f.p.out, "  %-7s  %-9s  %s\n", mark, name, line)
	}
}

func (f *doctorFlags) printCarriers(r *doctor.Report) {
	if len(r.Carriers) == 0 {
		return
	}
	rows := [][]string{{"carrier", "", "opens", "round trip", "up", "down", "in use", "silent"}}
	for _, c := range r.Carriers {
		row := []string{c.Name, doctorMarks[c.Status]}
		if c.Status != doctor.Failed && c.Status != doctor.Skipped {
			row = append(row, span(c.Opened), span(c.RoundTrip), speed(c.Up), speed(c.Down), lasted(c.Lasted, c.LastedCut), lasted(c.Silent, c.SilentCut))
		}
		rows = append(rows, row)
	}
	fmt.Fprintln(f.p.out)
	for _, line := range f.style().Table(rows) {
		fmt.Fprintln(f.p.out, "  "+line)
	}
	for _, c := range r.Carriers {
		if c.Problem != "" {
			f.printText("  "+c.Name+": ", c.Problem)
		}
	}
}

// printText prints text behind a beginning, below which its other lines begin
// with spaces.
func (f *doctorFlags) printText(begin, text string) {
	st := f.style()
	indent := strings.Repeat(" ", len(begin)-len(strings.TrimLeft(begin, " ")))
	for _, line := range st.Wrap(begin+text, doctorColumns-len(indent)) {
		fmt.Fprintln(f.p.out, indent+line)
	}
}

func (f *doctorFlags) printFindings(r *doctor.Report) {
	fmt.Fprintln(f.p.out)
	if r.Status == doctor.OK {
		f.printText("", "All is well: nothing on the way disturbs adit.")
	}
	for _, d := range r.Findings {
		begin := map[doctor.Status]string{doctor.Failed: "", doctor.Warning: "", doctor.OK: "Note: "}[d.Severity]
		f.printText(begin, d.Culprit+" "+d.Remedy)
	}
}

func span(s float64) string { return screen.RoundTrip(time.Duration(s * float64(time.Second))) }

// speed says how many bytes in a second.
func speed(rate float64) string {
	switch {
	case rate <= 0:
		return "-"
	case rate < 100e3:
		return fmt.Sprintf("%.1f kB/s", rate/1e3)
	case rate < 10e6:
		return fmt.Sprintf("%.1f MB/s", rate/1e6)
	}
	return fmt.Sprintf("%.0f MB/s", rate/1e6)
}

// lasted says for how long a connection was held, or when it was cut.
func lasted(s float64, cut bool) string {
	if s <= 0 && !cut {
		return "-"
	}
	sign := ">"
	if cut {
		sign = "cut:"
	}
	return fmt.Sprintf("%s %.3g s", sign, s)
}
