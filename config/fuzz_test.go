package config_test

import (
	"errors"
	"strings"
	"testing"

	"adit/config"
)

// FuzzParse checks that any file is either understood or refused with where
// its problems are.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"listen: a\ntcp-ports: [1, 2]\n", "tunnels:\n  - http: 3000\n", "a: &x 1\nb: *x\n", "<<: {a: b}\n", "{a: [b, {c: d}]}",
		"? [a]\n: b\n", "a: |\n  b\n", "a: 'b\n", "%YAML 1.2\n---\na: b\n...\n---\n", "\xff\xfe", "a: !!binary x\n", "- - - a", "a:\n\tb", "&a a: b", "!!str a: b",
		"&a [*a]", "a: !<tag:x> b", "\"\\x00\": 1", "? |\n  block key\n: - one\n", "a: .inf\nb: 0o7\nc: ~\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := config.Parse("x.yaml", []byte(text))
		if err == nil {
			err = file.Top.Apply(newFlags().set, "tunnels")
			if st := file.Top.Setting("tunnels"); st != nil {
				st.Text()
				sections, serr := st.Sections()
				err = config.Join(err, serr)
				for _, s := range sections {
					err = config.Join(err, s.Apply(newFlags().set))
				}
			}
		}
		lines := strings.Count(text, "\n") + strings.Count(text, "\r") + strings.Count(text, "\u0085") + strings.Count(text, "\u2028") + strings.Count(text, "\u2029") + 2
		for _, e := range config.Problems(err) {
			p, ok := errors.AsType[*config.Problem](e)
			if !ok && strings.HasPrefix(e.Error(), "and ") {
				continue
			}
			if !ok || p.Line < 1 || p.Column < 1 || p.Line > lines || p.Text == "" {
				t.Errorf("%q: problem %#v, want one with a place in the file", text, e)
			}
		}
	})
}
