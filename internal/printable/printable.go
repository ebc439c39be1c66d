// Package printable makes text that came from elsewhere fit for logs, errors and
// terminals.
//
//	reason = printable.Cut(printable.Text(reason), 256)
package printable

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns s with a question mark in the place of each character that is not
// to be seen, or changes what is seen beside it, and of each byte that is none.
// What remains is valid UTF-8, and no longer than s.
func Text(s string) string { return replace(s, '?') }

// Line is Text in one line: what Text would replace parts words, as space does,
// and between two of them there is one space.
func Line(s string) string { return strings.Join(strings.Fields(replace(s, ' ')), " ") }

func replace(s string, by rune) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return by
		}
		return r
	}, s)
}

// Cut returns the beginning of s, which is valid UTF-8, in at most limit bytes,
// and without a part of a character at its end.
func Cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
