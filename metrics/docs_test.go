package metrics_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"adit/metrics"
	"adit/route"
)

var update = flag.Bool("update", false, "write docs/metrics.md")

// scrape returns the metrics as Prometheus gets them.
func scrape(t *testing.T, f *fixture) string {
	t.Helper()
	w := httptest.NewRecorder()
	metrics.Handler(f.reg).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Fatalf("got %d, %v", w.Code, w.Header())
	}
	return w.Body.String()
}

const (
	docsFile   = "../docs/metrics.md"
	tableBegin = "<!-- written by go test ./metrics -update -->\n"
	tableEnd   = "<!-- end -->\n"
)

// docs/metrics.md lists the metrics that there are, as they are.
func TestDocs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.agent(t, "web", nil)
	if _, err := f.SetRoutes([]route.Rule{{Name: "site", Members: []route.Member{{ID: "web"}}}}, "", false); err != nil {
		t.Fatal(err)
	}
	have := table(gather(t, f.reg))
	text, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	listed, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", docsFile)
	}
	if *update {
		if err := os.WriteFile(docsFile, []byte(before+tableBegin+have+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if listed != have {
		t.Errorf("%s does not list the metrics as they are: run go test ./metrics -update", docsFile)
	}
}

func table(all map[string]*dto.MetricFamily) string {
	var b strings.Builder
	b.WriteString("\n| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !strings.HasPrefix(name, "adit_") {
			continue
		}
		f := all[name]
		values := make(map[string][]string)
		var labels []string
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if values[l.GetName()] == nil {
					labels = append(labels, l.GetName())
				}
				if !slices.Contains(values[l.GetName()], l.GetValue()) {
					values[l.GetName()] = append(values[l.GetName()], l.GetValue())
				}
			}
		}
		for i, l := range labels {
			labels[i] = "`" + l + "`"
			if n := len(values[l]); n <= 5 && name != "adit_build_info" && !strings.HasPrefix(name, "adit_route_member_") {
				slices.Sort(values[l])
				labels[i] += ": " + strings.Join(values[l], ", ")
			}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), strings.Join(labels, "; "), f.GetHelp())
	}
	b.WriteString("\n")
	return b.String()
}

// Each metric has a name and a text as Prometheus' users expect them.
func TestNames(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, family := range gather(t, f.reg) {
		if !strings.HasPrefix(name, "adit_") {
			continue
		}
		if counter := family.GetType() == dto.MetricType_COUNTER; counter != strings.HasSuffix(name, "_total") {
			t.Errorf("%s is a %s", name, family.GetType())
		}
		if help := family.GetHelp(); !strings.HasSuffix(help, ".") || strings.ToUpper(help[:1]) != help[:1] {
			t.Errorf("%s: %q is no sentence", name, help)
		}
	}
}

// The dashboard asks for metrics that there are.
func TestDashboard(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title  string
		Panels []struct {
			ID      int
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	all := gather(t, f.reg)
	used := regexp.MustCompile(`\b(adit|go|process)_[a-z0-9_]+`)
	ids := make(map[int]bool)
	n := 0
	for _, p := range board.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("panel %q has the number %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			found := used.FindAllString(target.Expr, -1)
			if len(found) == 0 {
				t.Errorf("panel %q: %q has no metric", p.Title, target.Expr)
			}
			for _, name := range found {
				n++
				base := name
				for _, suffix := range []string{"_bucket", "_sum", "_count"} {
					base = strings.TrimSuffix(base, suffix)
				}
				if all[name] == nil && (all[base] == nil || all[base].GetType() != dto.MetricType_HISTOGRAM) {
					t.Errorf("panel %q asks for %s, which is not there", p.Title, name)
				}
			}
		}
	}
	if n < 20 {
		t.Errorf("the dashboard asks for %d metrics, want more", n)
	}
}
