package screen

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// wide are the runes that take two columns (Unicode, annex 11: W and F), in
// pairs of first and last. Where a terminal sees it otherwise its line is cut
// at the edge, and no other line suffers.
var wide = [...]rune{
	0x1100, 0x115f, 0x231a, 0x231b, 0x2329, 0x232a, 0x23e9, 0x23ec, 0x23f0, 0x23f0, 0x23f3, 0x23f3,
	0x25fd, 0x25fe, 0x2614, 0x2615, 0x2648, 0x2653, 0x267f, 0x267f, 0x2693, 0x2693, 0x26a1, 0x26a1,
	0x26aa, 0x26ab, 0x26bd, 0x26be, 0x26c4, 0x26c5, 0x26ce, 0x26ce, 0x26d4, 0x26d4, 0x26ea, 0x26ea,
	0x26f2, 0x26f3, 0x26f5, 0x26f5, 0x26fa, 0x26fa, 0x26fd, 0x26fd, 0x2705, 0x2705, 0x270a, 0x270b,
	0x2728, 0x2728, 0x274c, 0x274c, 0x274e, 0x274e, 0x2753, 0x2755, 0x2757, 0x2757, 0x2795, 0x2797,
	0x27b0, 0x27b0, 0x27bf, 0x27bf, 0x2b1b, 0x2b1c, 0x2b50, 0x2b50, 0x2b55, 0x2b55, 0x2e80, 0x303e,
	0x3041, 0xa4cf, 0xa960, 0xa97c, 0xac00, 0xd7a3, 0xf900, 0xfaff, 0xfe10, 0xfe19, 0xfe30, 0xfe6f,
	0xff01, 0xff60, 0xffe0, 0xffe6, 0x16fe0, 0x18d08, 0x1aff0, 0x1b2fb, 0x1f004, 0x1f004,
	0x1f0cf, 0x1f0cf, 0x1f18e, 0x1f18e, 0x1f191, 0x1f19a, 0x1f200, 0x1f320, 0x1f32d, 0x1f64f,
	0x1f680, 0x1f6ff, 0x1f7e0, 0x1f7f0, 0x1f90c, 0x1f9ff, 0x1fa70, 0x1faff, 0x20000, 0x3fffd,
}

// columns returns how many a printable rune takes.
func columns(r rune) int {
	switch {
	case r < wide[0]:
		if r >= 0x300 && unicode.In(r, unicode.Mn, unicode.Me) {
			return 0
		}
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	}
	for i := 0; i < len(wide) && r >= wide[i]; i += 2 {
		if r <= wide[i+1] {
			return 2
		}
	}
	return 1
}

func width(s string) (n int) {
	for _, r := range s {
		n += columns(r)
	}
	return n
}

// maxMarks is how many combining marks in a row are shown.
const maxMarks = 2

// clean returns s without what could do more on a terminal than to be seen:
// control characters, and those that change the direction or are invisible. A
// terminal that is not known to show more gets ASCII.
func (st Style) clean(s string) string {
	plain := true
	for i := range len(s) {
		plain = plain && s[i] >= ' ' && s[i] < 0x7f
	}
	if plain {
		return s
	}
	var b strings.Builder
	marks := 0
	for _, r := range s {
		switch c := columns(r); {
		case r == utf8.RuneError, !unicode.IsGraphic(r), unicode.In(r, unicode.Zs) && r != ' ', !st.Unicode && r > '~':
			b.WriteString(st.unshown())
			marks = 0
		case c > 0:
			b.WriteRune(r)
			marks = 0
		case marks < maxMarks:
			b.WriteRune(r)
			marks++
		}
	}
	return b.String()
}

func (st Style) unshown() string {
	if st.Unicode {
		return "\ufffd"
	}
	return "?"
}

func (st Style) ellipsis() string {
	if st.Unicode {
		return "…"
	}
	return "..."
}

// cut returns s in at most limit columns.
func (st Style) cut(s string, limit int) string {
	if width(s) <= limit {
		return s
	}
	mark := st.ellipsis()
	if limit <= width(mark) {
		mark = ""
	}
	left := limit - width(mark)
	for i, r := range s {
		if left -= columns(r); left < 0 {
			return s[:i] + mark
		}
	}
	return s
}

// wrap breaks s at spaces into lines of at most limit columns, and of those
// returns no more than lines; a word that is too long is cut.
func (st Style) wrap(s string, limit, lines int) (wrapped []string) {
	line := ""
	for _, word := range strings.Fields(s) {
		switch {
		case line == "":
			line = word
		case width(line)+1+width(word) <= limit:
			line += " " + word
		case len(wrapped) == lines-1: // no room for another
			line += " " + word
		default:
			wrapped = append(wrapped, st.cut(line, limit))
			line = word
		}
	}
	if line != "" {
		wrapped = append(wrapped, st.cut(line, limit))
	}
	return wrapped
}
