package server

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"
)

// Each code that an agent can be refused with is counted as such.
func TestCodesAreCounted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		file, kind string
		counted    []string
	}{
		{"../auth/errors.go", "Code", handshakeResults},
		{"../dialect/dialect.go", "BindCode", bindResults},
		{"../dialect/dialect.go", "Kind", kinds},
	} {
		file, err := parser.ParseFile(token.NewFileSet(), tt.file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		ast.Inspect(file, func(node ast.Node) bool {
			spec, ok := node.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			kind, _ := spec.Type.(*ast.Ident)
			lit, _ := spec.Values[0].(*ast.BasicLit)
			if kind == nil || kind.Name != tt.kind || lit == nil {
				return true
			}
			n++
			code, err := strconv.Unquote(lit.Value)
			if err != nil || !slices.Contains(tt.counted, code) {
				t.Errorf("%s %s of %s is not counted", tt.kind, lit.Value, tt.file)
			}
			return true
		})
		if n < 3 {
			t.Errorf("%s has %d constants of type %s: want all of them", tt.file, n, tt.kind)
		}
	}
}

func TestTallyIsBounded(t *testing.T) {
	t.Parallel()
	var y tally
	y.init([]string{"a"}, []string{"ok", "failed"})
	for i := range 100 {
		y.count("a", strconv.Itoa(i), "failed")
		y.count(strconv.Itoa(i), "ok", "failed")
	}
	y.count("a", "ok", "failed")
	if n := y.snapshot(); len(n) != 2 || n[[2]string{"a", "ok"}] != 1 || n[[2]string{"a", "failed"}] != 100 {
		t.Errorf("got %v", n)
	}
}
