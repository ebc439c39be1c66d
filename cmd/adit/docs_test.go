package main

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A page is a Markdown file of the repository.
type page struct {
	path  string          // below the repository, with slashes
	prose string          // without blocks of code
	code  []string        // the lines of blocks of code
	marks map[string]bool // anchors of its headings
}

// pages returns all pages by their paths.
func pages(t *testing.T) map[string]*page {
	t.Helper()
	all := make(map[string]*page)
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if file != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules") {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".md" {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		p := newPage(filepath.ToSlash(rel), string(text))
		all[p.path] = p
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("got %d pages, want all of the documentation", len(all))
	}
	return all
}

func newPage(at, text string) *page {
	p := &page{path: at, marks: make(map[string]bool)}
	var prose strings.Builder
	fenced := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			fenced = !fenced
		case fenced || strings.HasPrefix(line, "    "):
			p.code = append(p.code, strings.TrimSpace(line))
		default:
			if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && line[0] == '#' {
				p.marks[anchor(heading)] = true
			}
			prose.WriteString(line)
		}
	}
	p.prose = prose.String()
	return p
}

// anchor returns what a heading is linked to by, as GitHub makes it.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(heading))
}

var (
	linkPattern = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	flagPattern = regexp.MustCompile("(?:^|[\\s`(\\[|])--([a-z][a-z0-9-]*)")
	spanPattern = regexp.MustCompile("`[^`\n]*`")
)

// Links within the documentation lead somewhere.
func TestDocumentedLinks(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for _, p := range all {
		for _, m := range linkPattern.FindAllStringSubmatch(p.prose, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			file, mark, marked := strings.Cut(m[1], "#")
			to := p.path
			if file != "" {
				to = path.Join(path.Dir(p.path), file)
			}
			if _, err := os.Stat(filepath.Join("..", "..", filepath.FromSlash(to))); err != nil {
				t.Errorf("%s: link to %s: there is no such file", p.path, m[1])
				continue
			}
			if marked && (all[to] == nil || !all[to].marks[mark]) {
				t.Errorf("%s: link to %s: there is no such heading", p.path, m[1])
			}
		}
	}
}

// What is written as a command of adit, or as a flag, is one.
func TestDocumentedFlags(t *testing.T) {
	t.Parallel()
	root := new(program).rootCommand()
	known := make(map[string]bool)
	for _, c := range withSubcommands(root) {
		c.InitDefaultHelpFlag()
		c.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
	}
	for _, d := range dropIns() { // with the flags of others
		var help strings.Builder
		d.run(&program{in: strings.NewReader(""), out: &help, errOut: &help}, t.Context(), []string{"--help"})
		for _, m := range regexp.MustCompile(`--?([a-z][a-z0-9-]*)`).FindAllStringSubmatch(help.String(), -1) {
			known[m[1]] = true
		}
	}
	for _, p := range pages(t) {
		for _, line := range p.code {
			for part := range strings.FieldsFuncSeq(line, func(r rune) bool { return strings.ContainsRune("|;&", r) }) {
				checkCommand(t, p.path, root, part)
			}
		}
		for _, span := range spanPattern.FindAllString(p.prose, -1) {
			text := strings.Trim(span, "`")
			if strings.HasPrefix(text, "adit ") {
				checkCommand(t, p.path, root, text)
				continue
			}
			if !strings.HasPrefix(text, "--") {
				continue // a flag of something else
			}
			for _, m := range flagPattern.FindAllStringSubmatch(text, -1) {
				if !known[m[1]] {
					t.Errorf("%s: %s: adit has no flag --%s", p.path, span, m[1])
				}
			}
		}
	}
}

// checkCommand checks the flags of a command if it is one of adit.
func checkCommand(t *testing.T, at string, root *cobra.Command, line string) {
	words := strings.Fields(line)
	for i, w := range words {
		if strings.HasPrefix(w, "#") {
			return
		}
		if w != "adit" && w != "./cmd/adit" || i+1 < len(words) && words[i+1] == "adit" { // a user's name
			continue
		}
		words = words[i+1:]
		c, _, err := root.Find(words)
		if err != nil {
			t.Errorf("%s: %s: %v", at, line, err)
			return
		}
		if c.DisableFlagParsing {
			return // it has the flags of the program that it stands in for
		}
		for _, m := range flagPattern.FindAllStringSubmatch(strings.Join(words, " "), -1) {
			if c.Flags().Lookup(m[1]) == nil && c.InheritedFlags().Lookup(m[1]) == nil && m[1] != "help" && m[1] != "version" {
				t.Errorf("%s: %s: %q has no flag --%s", at, line, c.CommandPath(), m[1])
			}
		}
		return
	}
}
