package printable_test

import (
	"testing"
	"unicode"
	"unicode/utf8"

	"adit/internal/printable"
)

func TestText(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, text, line string }{
		{"empty", "", "", ""},
		{"plain", "no such name", "no such name", "no such name"},
		{"other letters", "kein Gerät 端口", "kein Gerät 端口", "kein Gerät 端口"},
		{"several lines", " one\r\n\ttwo ", " one???two ", "one two"},
		{"escape sequence", "\x1b[31mred\x07", "?[31mred?", "[31mred"},
		{"direction", "a\u202eb", "a?b", "a b"},
		{"no-break space", "a\u00a0b", "a?b", "a b"},
		{"not UTF-8", "a\xff\xc3b", "a??b", "a b"},
		{"replacement character", "a\ufffdb", "a?b", "a b"},
	} {
		if got := printable.Text(tt.in); got != tt.text {
			t.Errorf("%s: Text: got %q, want %q", tt.name, got, tt.text)
		}
		if got := printable.Line(tt.in); got != tt.line {
			t.Errorf("%s: Line: got %q, want %q", tt.name, got, tt.line)
		}
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in    string
		limit int
		want  string
	}{
		{"abc", 3, "abc"},
		{"abc", 2, "ab"},
		{"aé", 3, "aé"},
		{"aé", 2, "a"},
		{"端口", 5, "端"},
		{"端", 2, ""},
		{"a", 0, ""},
	} {
		if got := printable.Cut(tt.in, tt.limit); got != tt.want {
			t.Errorf("Cut(%q, %d): got %q, want %q", tt.in, tt.limit, got, tt.want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("one\r\n\x1b]0;two\a \xff端", 7)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit &= 0xff
		for name, got := range map[string]string{"Text": printable.Text(s), "Line": printable.Line(s)} {
			got = printable.Cut(got, limit)
			if len(got) > min(len(s), limit) || !utf8.ValidString(got) {
				t.Errorf("%s: %q became %q with a limit of %d", name, s, got, limit)
			}
			for _, r := range got {
				if !unicode.IsPrint(r) {
					t.Errorf("%s: %q became %q, which has %q", name, s, got, r)
				}
			}
		}
	})
}
