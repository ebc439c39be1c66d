package screen

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Table returns rows with their columns aligned, two spaces apart. The first
// row is a heading, unless it is nil. Texts may come from anywhere.
func (st Style) Table(rows [][]string) []string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(st.clean(cell)))
		}
	}
	var lines []string
	for n, row := range rows {
		if row == nil {
			continue
		}
		w := &writer{style: st}
		at, r := 0, normal
		if n == 0 {
			r = strong
		}
		for i, cell := range row {
			w.to(at).add(r, cell)
			at += widths[i] + 2
		}
		lines = append(lines, strings.TrimRight(w.line().Text, " "))
	}
	return lines
}

// Clean returns s without what could do more on a terminal than to be seen.
func (st Style) Clean(s string) string { return st.clean(s) }

// Age is d in whole seconds, or less exactly.
func Age(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%d s", int(max(0, d).Seconds()))
	}
	return duration(d)
}

// RoundTrip is d, rounded as far as people need it.
func RoundTrip(d time.Duration) string { return roundTrip(d) }

// Count is a number of things, whose word gets an s where it needs one.
func Count(n uint64, word string) string { return plural(n, word) }

// Wrap returns s, which may come from anywhere, in lines of at most that many
// columns, broken at spaces.
func (st Style) Wrap(s string, columns int) []string {
	return st.wrap(st.clean(s), columns, math.MaxInt)
}
