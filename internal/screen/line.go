package screen

import "strings"

// A Line is one line of the block.
type Line struct {
	Text  string // with escape sequences of its own
	Width int    // columns
	Wrap  bool   // longer than the terminal is wide, and to go on in the next row
}

// rows returns how many rows of a terminal l takes.
func (l Line) rows(cols int) int {
	if cols <= 0 {
		return 1
	}
	return max(1, (l.Width+cols-1)/cols)
}

// A role is why a text looks as it does. Colours are those that users chose
// for their terminals, so that they can be read on light and on dark ground,
// and never all that tells a difference.
type role string

const (
	normal role = ""
	strong role = "1"
	faint  role = "2"
	good   role = "32"
	warn   role = "33"
	bad    role = "31"
)

// A writer makes a Line.
type writer struct {
	style Style
	b     strings.Builder
	width int
}

// add adds a text, from wherever it comes.
func (w *writer) add(r role, s string) *writer {
	s = w.style.clean(s)
	w.width += width(s)
	color := r == good || r == warn || r == bad
	if r == normal || s == "" || w.style.Plain || color && !w.style.Color {
		w.b.WriteString(s)
		return w
	}
	w.b.WriteString("\x1b[" + string(r) + "m" + s + "\x1b[0m")
	return w
}

// to fills up with spaces to a column.
func (w *writer) to(col int) *writer {
	if n := col - w.width; n > 0 {
		w.b.WriteString(strings.Repeat(" ", n))
		w.width = col
	}
	return w
}

// right adds s so that it ends before a column.
func (w *writer) right(col int, r role, s string) *writer {
	return w.to(col-width(s)).add(r, s)
}

func (w *writer) line() Line { return Line{Text: w.b.String(), Width: w.width} }
