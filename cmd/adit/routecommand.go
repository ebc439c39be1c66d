package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"adit/admin"
	"adit/config"
	"adit/internal/screen"
	"adit/route"
)

// routeFlags are the flags of adit route.
type routeFlags struct {
	statusFlags
	rules    bool
	dryRun   bool
	revision string
}

func (p *program) routeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "route",
		Short: "Let several agents serve one name, in the order that you say",
		Long: "Show and change which agents serve a name of a server: an id, a hostname or a\n" +
			"public port. A route has members, which are ids that agents have bound, with priorities\n" +
			"and weights. When one is away, silent or unwell, visitors go to the next.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(p.routeListCommand(), p.routeSetCommand(), p.routeDiffCommand())
	return c
}

func (f *routeFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.admin, "admin", "", "address for operators of the server, as given to adit server, or its URL")
	fl.StringVar(&f.tokenFile, "admin-token-file", "", "file with the server's admin token, instead of the one in --data-dir")
	fl.StringVar(&f.dataDir, "data-dir", f.p.dataDir(), "folder of a server on this machine")
	fl.BoolVar(&f.json, "json", false, "print JSON")
}

func (p *program) routeListCommand() *cobra.Command {
	f := &routeFlags{statusFlags: statusFlags{p: p}}
	c := &cobra.Command{
		Use:     "list",
		Short:   "Show the routes, and how their members are",
		Example: "  adit route list --admin 127.0.0.1:9090\n  adit route list --admin 127.0.0.1:9090 --rules > routes.json",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return f.with(c.Context(), f.list) },
	}
	f.add(c.Flags())
	c.Flags().BoolVar(&f.rules, "rules", false, "print the routes alone, as a file for adit route set")
	return c
}

func (p *program) routeSetCommand() *cobra.Command {
	f := &routeFlags{statusFlags: statusFlags{p: p}}
	c := &cobra.Command{
		Use:   "set FILE",
		Short: "Put the routes of a file in the place of all others",
		Long: "Put the routes of a file in the place of all others, and print what has changed.\n" +
			"All of it is checked first. No visitor is lost: what stays is not touched, and if\n" +
			"anything cannot be done everything stays as it was.\n\n" +
			"FILE has the key \"routes\", as the config file of a server has; see docs/failover.md.",
		Example: "  adit route set routes.yaml --admin 127.0.0.1:9090\n  adit route set routes.yaml --admin 127.0.0.1:9090 --dry-run",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.with(c.Context(), func(ctx context.Context, a *adminAPI) error { return f.set(ctx, a, args[0]) })
		},
	}
	f.add(c.Flags())
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "only print what would change")
	c.Flags().StringVar(&f.revision, "revision", "", "change nothing if the routes are no longer those of this revision, which adit route diff prints")
	return c
}

func (p *program) routeDiffCommand() *cobra.Command {
	f := &routeFlags{statusFlags: statusFlags{p: p}, dryRun: true}
	c := &cobra.Command{
		Use:     "diff FILE",
		Short:   "Print what adit route set would change",
		Example: "  adit route diff routes.yaml --admin 127.0.0.1:9090",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.with(c.Context(), func(ctx context.Context, a *adminAPI) error { return f.set(ctx, a, args[0]) })
		},
	}
	f.add(c.Flags())
	return c
}

// with calls do with the server's API.
func (f *routeFlags) with(ctx context.Context, do func(context.Context, *adminAPI) error) error {
	if f.admin == "" {
		return usagef("--admin is missing: want the address for operators of the server, such as 127.0.0.1:9090")
	}
	return f.ask(ctx, do)
}

// A ruleSet is a set of routes as files have it.
type ruleSet struct {
	Routes []route.Rule `json:"routes"`
}

func (f *routeFlags) list(ctx context.Context, a *adminAPI) error {
	var set admin.RouteSet
	if err := a.get(ctx, "/api/v1/route-set", &set); err != nil {
		return err
	}
	if f.rules {
		return f.printJSON(ruleSet{set.Routes})
	}
	names, err := list[admin.Route](ctx, a, "routes")
	if err != nil {
		return err
	}
	if f.json {
		return f.printJSON(map[string]any{"set": set, "routes": names})
	}
	st := f.p.tableStyle()
	source := "set by adit route set"
	if set.Source == admin.RoutesOfConfig {
		source = "those of the server's config file"
	}
	fmt.Fprintf(f.p.out, "%s, %s, revision %s\n", screen.Count(uint64(len(set.Routes)), "route"), source, st.Clean(set.Revision))
	if rows := ruleTable(names); len(rows) > 1 {
		fmt.Fprintln(f.p.out)
		for _, line := range st.Table(rows) {
			fmt.Fprintln(f.p.out, line)
		}
	}
	return nil
}

// ruleTable has a row for each member of each route that an operator has set.
func ruleTable(names []admin.Route) [][]string {
	rows := [][]string{{"NAME", "KIND", "MEMBER", "PRIORITY", "WEIGHT", "HEALTH", "SESSION", "WAITING"}}
	for _, r := range names {
		if r.Kind == "" {
			continue
		}
		name, kind, waiting := r.Key, r.Kind, fmt.Sprint(r.Waiting)
		if r.Sticky != "" {
			kind += ", sticky"
		}
		for _, t := range r.Targets {
			health, session := t.Health, t.Session
			if t.Error != "" && t.Health != "healthy" {
				health += ": " + t.Error
			}
			if session == "" {
				session = "-"
			}
			rows = append(rows, []string{name, kind, t.ID, fmt.Sprint(t.Priority), fmt.Sprint(t.Weight), health, session, waiting})
			name, kind, waiting = "", "", ""
		}
	}
	return rows
}

// set sends the routes of a file, and prints what that changes.
func (f *routeFlags) set(ctx context.Context, a *adminAPI, path string) error {
	rules, err := readRoutes(path)
	if err != nil {
		return err
	}
	body, err := json.Marshal(ruleSet{rules})
	if err != nil {
		return err
	}
	target := "/api/v1/route-set"
	if f.dryRun {
		target += "?dry_run=true"
	}
	var answer struct {
		Changes  []route.Change `json:"changes"`
		Applied  bool           `json:"applied"`
		Revision string         `json:"revision"`
	}
	var fields []string
	if f.revision != "" {
		fields = []string{"If-Match", `"` + f.revision + `"`}
	}
	if err := a.ask(ctx, http.MethodPut, target, body, &answer, fields...); err != nil {
		return err
	}
	if f.json {
		return f.printJSON(answer)
	}
	for _, line := range changeLines(answer.Changes) {
		fmt.Fprintln(f.p.out, screen.Style{}.Clean(line))
	}
	what := "would change"
	if answer.Applied {
		what = "changed"
	}
	fmt.Fprintf(f.p.out, "%s %s, revision %s\n", screen.Count(uint64(len(answer.Changes)), "route"), what, screen.Style{}.Clean(answer.Revision))
	return nil
}

// changeLines shows changes as people read them in a diff.
func changeLines(changes []route.Change) (lines []string) {
	for _, c := range changes {
		sign := map[string]string{route.Added: "+", route.Removed: "-"}[c.What]
		if sign == "" {
			sign = "~"
		}
		lines = append(lines, sign+" "+c.Name)
		for _, d := range c.Detail {
			lines = append(lines, "    "+d)
		}
	}
	return lines
}

// readRoutes returns the routes of a file for adit route.
func readRoutes(path string) ([]route.Rule, error) {
	file, err := config.Read(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	none := pflag.NewFlagSet("", pflag.ContinueOnError)
	if err := file.Top.Apply(none, routesKey); err != nil {
		return nil, err
	}
	list := file.Top.Setting(routesKey)
	if list == nil {
		return nil, file.Top.Problem("%s is missing: want a list, which may be empty", routesKey)
	}
	return routesIn(list)
}

// healthOf says how a target of an operator's route is, for adit status.
func healthOf(t admin.Target) string {
	target := t.ID
	if t.Session != "" {
		target += " " + t.Session
	}
	return strings.TrimSpace(fmt.Sprintf("%s (priority %d, weight %d, %s)", target, t.Priority, t.Weight, t.Health))
}
