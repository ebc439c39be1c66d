package adit_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// anything allows a package all imports but those of config.
const anything = "*"

// allowed is which packages of adit a package may import. A name that ends in
// "/..." stands for all packages below. The order is that of
// docs/architecture.md: imports point up the table. A package of its own line
// is not covered by the line of its parent.
var allowed = []struct {
	pkg     string
	imports []string
}{
	{"tunnel", nil},
	{"internal/...", []string{"internal/..."}},
	{"config", nil},
	{"session", []string{"internal/..."}},
	{"carrier/...", []string{"carrier/...", "internal/..."}},
	{"carrier", []string{"carrier/...", "internal/..."}},
	{"doctor", []string{"carrier", "carrier/...", "internal/..."}},
	{"tunnel/tunneltest", []string{"tunnel", "internal/..."}},
	{"auth", []string{"tunnel"}},
	{"dialect", []string{"tunnel", "auth"}},
	{"dialect/...", []string{"dialect", "tunnel", "auth", "session", "carrier", "carrier/...", "internal/..."}},
	{"policy", []string{"tunnel"}},
	{"route", []string{"tunnel", "policy"}},
	{"ingress", []string{"tunnel", "policy", "internal/..."}},
	{"accesslog", []string{"tunnel", "ingress"}},
	{"tracing", []string{"tunnel", "ingress"}},
	{"forward/tcpws", []string{"internal/..."}},
	{"forward", []string{"tunnel", "auth", "internal/..."}},
	{"agent", []string{"tunnel", "dialect", "dialect/...", "forward", "internal/..."}},
	{"admin", []string{"tunnel", "auth", "route", "internal/..."}},
	{"server", []string{
		"tunnel", "internal/...", "session", "carrier", "carrier/...", "doctor", "auth", "dialect", "dialect/...",
		"route", "policy", "ingress", "forward", "admin",
	}},
	{"metrics", []string{"tunnel", "session", "ingress", "accesslog", "tracing", "agent", "server"}},
	{"adit", []string{"tunnel", "internal/...", "auth", "dialect", "dialect/...", "policy", "forward", "agent"}},
	{"packaging/...", nil},
	{"adittest", []string{"tunnel", "internal/...", "auth", "dialect", "dialect/...", "ingress", "server", "adit"}},
	{"cmd/adit", []string{anything, "config"}},
	{"examples/...", []string{"adit", "server", "auth", "policy", "dialect", "dialect/..."}},
	{"e2e", []string{anything}},
}

// allowedInTests is what test files may import in addition.
var allowedInTests = []string{"tunnel", "tunnel/tunneltest", "internal/..."}

// allowedInTestsOf is what test files of one package may import besides that.
var allowedInTestsOf = map[string][]string{
	"server":  {"agent"}, // a server alone does little
	"metrics": {"auth", "dialect", "dialect/native", "route"},
	"agent":   {"server", "auth", "ingress"},
	"adit":    {"adittest", "server"},
}

// standardOnly are packages that import no other module outside tests.
var standardOnly = map[string]bool{"tunnel": true}

// TestImports holds the packages to the table.
func TestImports(t *testing.T) {
	t.Parallel()
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return enter(file, d.Name())
		}
		if path.Ext(file) != ".go" {
			return nil
		}
		for _, problem := range checkFile(t, filepath.ToSlash(file)) {
			t.Error(problem)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// enter skips directories that are not of this module, or not built.
func enter(dir, name string) error {
	if dir == "." {
		return nil
	}
	if name == "testdata" || name[0] == '.' || name[0] == '_' {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func checkFile(t *testing.T, file string) (problems []string) {
	f, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(file), nil, parser.ImportsOnly)
	if err != nil {
		return []string{err.Error()}
	}
	pkg := path.Dir(file)
	if pkg == "." {
		pkg = "adit"
	}
	imports, known := importsOf(pkg)
	if !known {
		return []string{fmt.Sprintf("%s: package %s is not in the table of imports_test.go: add it there and to docs/architecture.md, below all that it imports", file, pkg)}
	}
	isTest := strings.HasSuffix(file, "_test.go")
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		own, isOwn := strings.CutPrefix(imported, "adit/")
		switch {
		case imported == "adit":
			own = "adit"
		case !isOwn:
			first, _, _ := strings.Cut(imported, "/")
			if standardOnly[pkg] && !isTest && strings.Contains(first, ".") {
				problems = append(problems, fmt.Sprintf("%s imports %s: package %s needs the standard library alone", file, imported, pkg))
			}
			continue
		}
		if own == pkg || covers(imports, own) || isTest && (covers(allowedInTests, own) || covers(allowedInTestsOf[pkg], own)) {
			continue
		}
		problems = append(problems, fmt.Sprintf("%s imports %s: package %s may import %s", file, imported, pkg, list(imports)))
	}
	return problems
}

// importsOf returns what pkg may import. A line of its own goes before one
// that ends in "/...".
func importsOf(pkg string) (imports []string, known bool) {
	for _, line := range allowed {
		if line.pkg == pkg {
			return line.imports, true
		}
	}
	for _, line := range allowed {
		if matches(line.pkg, pkg) {
			// A package below may be split in parts that know one another, as
			// long as they stay among themselves.
			if top := family(line.pkg, pkg); top != "" {
				return append([]string{top, top + "/..."}, line.imports...), true
			}
			return line.imports, true
		}
	}
	return nil, false
}

// family returns the package directly below pattern's that pkg is or belongs
// to, such as dialect/native for dialect/native/wire.
func family(pattern, pkg string) string {
	base, ok := strings.CutSuffix(pattern, "...")
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(pkg, base), "/")
	return base + first
}

func matches(pattern, pkg string) bool {
	if base, ok := strings.CutSuffix(pattern, "..."); ok {
		return strings.HasPrefix(pkg, base)
	}
	return pattern == pkg
}

func covers(patterns []string, pkg string) bool {
	for _, p := range patterns {
		if matches(p, pkg) || p == anything && pkg != "config" {
			return true
		}
	}
	return false
}

func list(imports []string) string {
	if len(imports) == 0 {
		return "no package of adit"
	}
	return strings.Join(imports, ", ")
}

// The table itself: what may not be is refused.
func TestImportTable(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pkg, imports string
		want         bool
	}{
		{"tunnel", "internal/relay", false},
		{"session", "tunnel", false},
		{"session", "internal/wsconn", true},
		{"route", "tunnel", true},
		{"route", "ingress", false},
		{"ingress", "route", false},
		{"dialect", "dialect/native", false},
		{"dialect/native", "dialect", true},
		{"dialect/native", "session", true},
		{"dialect/native", "dialect/wsmux", false},
		{"dialect/native", "dialect/nativeness", false},
		{"dialect/native/wire", "dialect/native", true},
		{"dialect/native/wire", "dialect/wsmux", false},
		{"agent", "dialect/native", true},
		{"agent", "server", false},
		{"server", "agent", false},
		{"server", "config", false},
		{"e2e", "server", true},
		{"e2e", "config", false},
		{"cmd/adit", "config", true},
		{"internal/relay", "internal/readable", true},
		{"internal/relay", "tunnel", false},
	} {
		imports, known := importsOf(tt.pkg)
		if !known {
			t.Errorf("package %s is not in the table", tt.pkg)
		}
		if got := covers(imports, tt.imports); got != tt.want {
			t.Errorf("%s imports %s: got allowed %v, want %v", tt.pkg, tt.imports, got, tt.want)
		}
	}
	if _, known := importsOf("util"); known {
		t.Error("package util is in the table")
	}
}
