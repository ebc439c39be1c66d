// Package config reads files of settings in YAML, whose keys are the names of
// flags. It knows nothing of what the settings mean: a pflag.FlagSet is the
// schema, and takes the values.
//
//	file, err := config.Read("server.yaml")
//	...
//	err = file.Top.Apply(flags)
//
// Errors are of type *Problem, or of several joined by errors.Join; each says
// where in the file it is. Values of settings that are secrets are in none.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

const (
	maxSize     = 1 << 20 // bytes of a file
	maxDepth    = 16      // mappings and lists inside of one another
	maxProblems = 50      // that are told of one file
)

// A File is a file of settings.
type File struct {
	Name string   // as Read or Parse got it
	Top  *Section // what the file consists of

	exposed string // why others can read it; empty if they cannot
}

// Format prints the file's name, with every verb, and none of its content.
func (f File) Format(s fmt.State, _ rune) { io.WriteString(s, f.Name) }

// Read reads the file at path, as ReadFile does.
func Read(path string) (*File, error) {
	text, exposed, err := read(path, maxSize)
	if err != nil {
		return nil, fmt.Errorf("config file %s: %w", path, err)
	}
	f, err := Parse(path, text)
	if f != nil {
		f.exposed = exposed
	}
	return f, err
}

// ReadFile reads a file that a setting names, of at most limit bytes. It refuses
// one that others than its owner may change, or that belongs to somebody else
// than root and the user of this process: they would decide on what this process
// does. On systems without Unix permissions it looks at neither.
func ReadFile(path string, limit int64) ([]byte, error) {
	text, _, err := read(path, limit)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case int64(len(text)) > limit:
		return nil, fmt.Errorf("%s: the file has more than %d bytes", path, limit)
	}
	return text, nil
}

// read returns a file's first bytes, one more than limit if there are so many,
// and why others can read it; that is empty if they cannot.
func read(path string, limit int64) (text []byte, exposure string, err error) {
	// Before it is opened, since to open a pipe may block.
	if info, err := os.Stat(path); err != nil {
		return nil, "", cause(err)
	} else if !info.Mode().IsRegular() {
		return nil, "", errors.New("it is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, "", cause(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, "", cause(err)
	}
	if err := checkOwned(path, info); err != nil {
		return nil, "", err
	}
	if text, err = io.ReadAll(io.LimitReader(f, limit+1)); err != nil {
		return nil, "", cause(err)
	}
	return text, exposed(path, info), nil
}

// Parse reads settings from text; name is for messages.
func Parse(name string, text []byte) (*File, error) {
	f := &File{Name: name}
	if len(text) > maxSize {
		return nil, f.problem(1, 1, "the file has more than %d bytes", maxSize)
	}
	top, err := f.decode(text)
	if err != nil {
		return nil, err
	}
	if problems := f.check(top, 1); len(problems) > 0 {
		return nil, Join(problems...)
	}
	if top.Kind != yaml.MappingNode {
		return nil, f.problem(top.Line, top.Column, "want settings such as \"name: value\", but this is %s", kindOf(top))
	}
	f.Top = newSection(f, top)
	return f, nil
}

// decode returns the root of the only document in text. That of an empty text
// is an empty mapping.
func (f *File) decode(text []byte) (*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return nil, f.syntax(err)
	}
	empty := &yaml.Node{Kind: yaml.MappingNode, Line: 1, Column: 1}
	var doc, more yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF), err == nil && len(doc.Content) == 0:
		return empty, nil
	case err != nil:
		return nil, f.syntax(err)
	}
	switch err := loader.Load(&more); {
	case err == nil:
		return nil, f.problem(max(more.Line, 1), max(more.Column, 1), "a second document begins here: want one")
	case !errors.Is(err, io.EOF):
		return nil, f.syntax(err)
	}
	top := doc.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == nullTag {
		return empty, nil
	}
	return top, nil
}

// syntax is the problem that the YAML reader has.
func (f *File) syntax(err error) error {
	le, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		return f.problem(1, 1, "it is no YAML: %v", err)
	}
	text := le.Message
	switch {
	case le.ContextMsg != "" && le.ContextMark.Line != 0 && le.ContextMark != le.Mark:
		text = fmt.Sprintf("%s that begins in line %d, column %d: %s", le.ContextMsg, le.ContextMark.Line, max(le.ContextMark.Column, 1), text)
	case le.ContextMsg != "":
		text = le.ContextMsg + ": " + text
	}
	if strings.Contains(text, "cannot start any token") {
		text += " (YAML indents with spaces, not with tabs)"
	}
	return f.problem(max(le.Mark.Line, 1), max(le.Mark.Column, 1), "%s", text)
}

const (
	nullTag  = "!!null"
	boolTag  = "!!bool"
	intTag   = "!!int"
	floatTag = "!!float"
	mergeTag = "!!merge"
)

// check looks for what no settings need, and what would let a small file stand
// for a large one.
func (f *File) check(n *yaml.Node, depth int) (problems []error) {
	if depth > maxDepth {
		return []error{f.problem(n.Line, n.Column, "too many mappings and lists inside of one another")}
	}
	switch {
	case n.Kind == yaml.AliasNode:
		return []error{f.problem(n.Line, n.Column, "aliases are not allowed")}
	case n.Anchor != "":
		problems = append(problems, f.problem(n.Line, n.Column, "anchors are not allowed"))
	case n.Style&yaml.TaggedStyle != 0:
		problems = append(problems, f.problem(n.Line, n.Column, "tags are not allowed"))
	}
	if n.Kind == yaml.MappingNode {
		problems = append(problems, f.checkKeys(n)...)
	}
	for i, c := range n.Content {
		if isKey := n.Kind == yaml.MappingNode && i%2 == 0; !isKey {
			problems = append(problems, f.check(c, depth+1)...)
		}
	}
	return problems
}

func (f *File) checkKeys(n *yaml.Node) (problems []error) {
	first := make(map[string]*yaml.Node)
	for i := 0; i < len(n.Content); i += 2 {
		k := n.Content[i]
		switch {
		case k.Kind != yaml.ScalarNode || k.Style&yaml.TaggedStyle != 0 || k.Anchor != "":
			problems = append(problems, f.problem(k.Line, k.Column, "a key has to be a name, but this is %s", kindOf(k)))
		case k.Tag == mergeTag:
			problems = append(problems, f.problem(k.Line, k.Column, "merge keys are not allowed"))
		case first[k.Value] != nil:
			problems = append(problems, f.problem(k.Line, k.Column, "%s is set a second time: it is in line %d already", shorten(k.Value), first[k.Value].Line))
		default:
			first[k.Value] = k
		}
	}
	return problems
}

// kindOf names what a node is.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	if n.Tag == nullTag {
		return "nothing"
	}
	return "a single value"
}

// shorten is for keys, which may be anything.
func shorten(s string) string {
	if len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Sprintf("%.64q", s)
	}
	return s
}

// A Problem is something wrong in a file.
type Problem struct {
	File         string
	Line, Column int // from 1
	Text         string
	Err          error // what became of the setting; nil if the file itself is wrong
}

func (p *Problem) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
}

// Unwrap returns Err.
func (p *Problem) Unwrap() error { return p.Err }

func (f *File) problem(line, column int, format string, args ...any) error {
	return &Problem{File: f.Name, Line: line, Column: column, Text: fmt.Sprintf(format, args...)}
}

// Join is errors.Join for problems: those of one file are in the order of its
// lines. When there are very many the rest is only counted.
func Join(errs ...error) error {
	all := Problems(errors.Join(errs...))
	slices.SortStableFunc(all, func(a, b error) int {
		p, pok := errors.AsType[*Problem](a)
		q, qok := errors.AsType[*Problem](b)
		if !pok || !qok || p.File != q.File {
			return 0
		}
		if p.Line != q.Line {
			return p.Line - q.Line
		}
		return p.Column - q.Column
	})
	if n := len(all) - maxProblems; n > 0 {
		all = append(all[:maxProblems:maxProblems], fmt.Errorf("and %d problems more", n))
	}
	if len(all) == 1 {
		return all[0]
	}
	return errors.Join(all...)
}

// Problems returns the errors that err joins, and err itself if it joins none.
func Problems(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, Problems(e)...)
	}
	return all
}

// cause drops the path from err, which is named already.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
