package config

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"
)

// Annotations of flags, for pflag's SetAnnotation.
const (
	// Secret marks a flag whose value is a secret. Messages don't repeat it,
	// and a file that has it must not be readable for others.
	Secret = "adit_secret"

	// NotInFile marks a flag that has no key: it only makes sense for one
	// call of the program.
	NotInFile = "adit_not_in_file"
)

// A Section is a mapping of a file: settings, each with a key.
type Section struct {
	file         *File
	line, column int
	settings     []*Setting
}

// A Setting is a key with its value.
type Setting struct {
	Key   string
	file  *File
	key   *yaml.Node
	value *yaml.Node

	applied bool
}

// newSection returns the section of a mapping that File.check has passed.
func newSection(f *File, n *yaml.Node) *Section {
	s := &Section{file: f, line: n.Line, column: n.Column}
	for i := 0; i+1 < len(n.Content); i += 2 {
		s.settings = append(s.settings, &Setting{Key: n.Content[i].Value, file: f, key: n.Content[i], value: n.Content[i+1]})
	}
	return s
}

// Format prints where the section is, with every verb, and nothing of it.
func (s Section) Format(w fmt.State, _ rune) {
	fmt.Fprintf(w, "%s:%d:%d", s.file.Name, s.line, s.column)
}

// Format prints where the setting is, with every verb, and not its value.
func (s Setting) Format(w fmt.State, _ rune) {
	io.WriteString(w, strings.TrimSuffix(s.Problem("").Error(), ": "))
}

// Settings returns all settings in the order of the file.
func (s *Section) Settings() []*Setting { return slices.Clone(s.settings) }

// Setting returns the setting with that key, or nil.
func (s *Section) Setting(key string) *Setting {
	for _, st := range s.settings {
		if st.Key == key {
			return st
		}
	}
	return nil
}

// Problem returns a problem with the section as a whole.
func (s *Section) Problem(format string, args ...any) error {
	return s.file.problem(s.line, s.column, format, args...)
}

// Problem returns a problem with the setting, at its key.
func (s *Setting) Problem(format string, args ...any) error {
	return s.file.problem(s.key.Line, s.key.Column, format, args...)
}

// Wrap returns the problem that err is the consequence of the setting. text is
// what the problem says of it.
func (s *Setting) Wrap(text string, err error) error {
	return &Problem{s.file.Name, s.key.Line, s.key.Column, text, err}
}

// Applied reports whether Apply has set a flag to the setting's value: it was
// not set before.
func (s *Setting) Applied() bool { return s.applied }

// wrong returns a problem with the setting, at its value.
func (s *Setting) wrong(n *yaml.Node, format string, args ...any) error {
	return s.file.problem(n.Line, n.Column, s.Key+": "+format, args...)
}

// Apply sets the flags of fl that the section has keys for, as if they had been
// given on the command line; those that are set already keep their value. Keys
// in others are the caller's business. Every other key is a problem. All
// problems are returned together.
func (s *Section) Apply(fl *pflag.FlagSet, others ...string) error {
	var problems []error
	for _, st := range s.settings {
		if slices.Contains(others, st.Key) {
			continue
		}
		f := fl.Lookup(st.Key)
		if f == nil || !HasKey(f) {
			problems = append(problems, st.unknown(fl, others))
			continue
		}
		problems = append(problems, st.apply(f))
	}
	return Join(problems...)
}

// HasKey reports whether a flag is a setting that a file may have.
func HasKey(f *pflag.Flag) bool { return f.Name != "help" && f.Annotations[NotInFile] == nil }

// IsSecret reports whether the value of a flag is nobody else's business.
func IsSecret(f *pflag.Flag) bool { return f.Annotations[Secret] != nil }

func (s *Setting) unknown(fl *pflag.FlagSet, others []string) error {
	names := slices.Clone(others)
	fl.VisitAll(func(f *pflag.Flag) {
		if HasKey(f) && !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if near := Nearest(s.Key, names); near != "" {
		return s.Problem("%s is not known here: did you mean %s?", shorten(s.Key), near)
	}
	return s.Problem("%s is not known here", shorten(s.Key))
}

// apply sets f.
func (s *Setting) apply(f *pflag.Flag) error {
	if IsSecret(f) && s.file.exposed != "" {
		return s.Problem("%s is a secret, and %s", s.Key, s.file.exposed)
	}
	list, isList := f.Value.(pflag.SliceValue)
	if isList && s.value.Kind == yaml.SequenceNode {
		return s.applyList(f, list)
	}
	text, err := s.text(s.value, f)
	if err != nil || f.Changed {
		return err
	}
	if f.Value.Set(text) != nil {
		return s.malformed(s.value, f)
	}
	f.Changed, s.applied = true, true
	return nil
}

func (s *Setting) applyList(f *pflag.Flag, list pflag.SliceValue) error {
	var problems []error
	texts := make([]string, len(s.value.Content))
	for i, n := range s.value.Content {
		var err error
		texts[i], err = s.text(n, f)
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil || f.Changed {
		return err
	}
	if list.Replace(texts) != nil {
		return s.malformed(s.value, f)
	}
	f.Changed, s.applied = true, true
	return nil
}

// text returns a value as the flag takes it.
func (s *Setting) text(n *yaml.Node, f *pflag.Flag) (string, error) {
	kind := f.Value.Type()
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == nullTag:
		return "", s.wrong(n, "it has no value: want %s", Wanted(kind))
	case n.Kind != yaml.ScalarNode:
		return "", s.wrong(n, "want %s, but this is %s", Wanted(kind), kindOf(n))
	case kind == "bool" && n.Tag == boolTag && (n.Value == "true" || n.Value == "false"):
		return n.Value, nil
	case kind == "bool":
		return "", s.malformed(n, f)
	case n.Tag == boolTag:
		return "", s.wrong(n, "want %s, but %s alone is not text: put it in quotes if it is meant so", Wanted(kind), n.Value)
	case isNumber(kind) && n.Tag != intTag && n.Tag != floatTag:
		return "", s.malformed(n, f)
	}
	return n.Value, nil
}

// malformed is the problem of a value that the flag does not take.
func (s *Setting) malformed(n *yaml.Node, f *pflag.Flag) error {
	if IsSecret(f) || n.Kind != yaml.ScalarNode {
		return s.wrong(n, "want %s", Wanted(f.Value.Type()))
	}
	return s.wrong(n, "%.64q: want %s", n.Value, Wanted(f.Value.Type()))
}

func isNumber(kind string) bool {
	kind = strings.TrimSuffix(kind, "Slice")
	return strings.HasPrefix(kind, "int") || strings.HasPrefix(kind, "uint") || strings.HasPrefix(kind, "float")
}

// Wanted says what a flag of that type takes, as pflag.Value names it.
func Wanted(kind string) string {
	if kind == "stringArray" {
		kind = "stringSlice"
	}
	one, isList := strings.CutSuffix(kind, "Slice")
	what := one
	switch one {
	case "bool":
		what = "true or false"
	case "string":
		what = "text"
	case "duration":
		what = "a time such as 30s, 5m or 1h"
	case "int", "int32", "int64":
		what = "a whole number"
	case "int8":
		what = "a whole number from -128 to 127"
	case "int16":
		what = "a whole number from -32768 to 32767"
	case "uint", "uint32", "uint64":
		what = "a whole number from 0"
	case "uint8":
		what = "a whole number from 0 to 255"
	case "uint16":
		what = "a whole number from 0 to 65535"
	case "float32", "float64":
		what = "a number"
	}
	if isList {
		return "a list, each " + what
	}
	return what
}

// Text returns the setting's value as it is written, for settings that are no
// flags.
func (s *Setting) Text() (string, error) {
	if s.value.Kind != yaml.ScalarNode || s.value.Tag == nullTag || s.value.Tag == boolTag {
		return "", s.wrong(s.value, "want text, but this is %s", kindOf(s.value))
	}
	return s.value.Value, nil
}

// Section returns the setting's value as a section.
func (s *Setting) Section() (*Section, error) {
	if s.value.Kind != yaml.MappingNode {
		return nil, s.wrong(s.value, "want settings such as \"name: value\", but this is %s", kindOf(s.value))
	}
	return newSection(s.file, s.value), nil
}

// Sections returns the setting's value as a list of sections.
func (s *Setting) Sections() ([]*Section, error) {
	if s.value.Kind != yaml.SequenceNode {
		return nil, s.wrong(s.value, "want a list, each element with settings of its own, but this is %s", kindOf(s.value))
	}
	var sections []*Section
	var problems []error
	for _, n := range s.value.Content {
		if n.Kind != yaml.MappingNode {
			problems = append(problems, s.wrong(n, "want settings such as \"name: value\", but this is %s", kindOf(n)))
			continue
		}
		sections = append(sections, newSection(s.file, n))
	}
	return sections, Join(problems...)
}

// Default returns f's default as it is written in a file.
func Default(f *pflag.Flag) string {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		var quoted []string
		for _, s := range list.GetSlice() {
			quoted = append(quoted, quote(s))
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	if kind := f.Value.Type(); kind == "string" {
		return quote(f.DefValue)
	}
	return f.DefValue
}

// quote puts s in quotes unless it is text without them too.
func quote(s string) string {
	var n yaml.Node
	if err := yaml.Load([]byte("["+s+"]"), &n); err == nil && len(n.Content) == 1 && len(n.Content[0].Content) == 1 {
		if v := n.Content[0].Content[0]; v.Kind == yaml.ScalarNode && v.Value == s && v.Tag == "!!str" {
			return s
		}
	}
	return strconv.Quote(s)
}
