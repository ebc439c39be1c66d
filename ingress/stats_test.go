package ingress

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
	"time"
)

// Each problem that there is has a counter.
func TestProblemsAreCounted(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var declared, listed []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		name := spec.Names[0].Name
		if strings.HasPrefix(name, "prob") && name != "problems" {
			declared = append(declared, name)
		}
		if name == "problems" {
			for _, e := range spec.Values[0].(*ast.CompositeLit).Elts {
				listed = append(listed, e.(*ast.Ident).Name)
			}
		}
		return true
	})
	for _, name := range declared {
		if !slices.Contains(listed, name) {
			t.Errorf("%s is not in problems", name)
		}
	}
	if len(declared) < 20 || len(declared) != len(listed) {
		t.Errorf("%d problems are declared and %d listed", len(declared), len(listed))
	}
}

func TestHistogram(t *testing.T) {
	t.Parallel()
	var h histogram
	for _, d := range []time.Duration{0, time.Millisecond, 2 * time.Millisecond, time.Second, time.Hour} {
		h.add(d)
	}
	s := h.snapshot()
	if s.Total != 5 || s.Counts[0] != 2 || s.Counts[1] != 3 || s.Counts[len(s.Counts)-1] != 4 || s.Sum != 3601.003 {
		t.Errorf("got %+v", s)
	}
}
