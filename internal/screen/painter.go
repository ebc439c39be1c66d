package screen

import (
	"bytes"
	"fmt"
	"io"
	"slices"
)

// A Painter writes blocks over one another at the end of a terminal's text. The
// cursor rests in the row below the block. Nothing that a Painter writes has to
// be undone: the terminal is in its ordinary state after each frame, whatever
// becomes of the program.
type Painter struct {
	w     io.Writer
	block []Line // what is there
	cols  int    // of the terminal when it was painted
	buf   bytes.Buffer
}

// NewPainter returns a Painter on a terminal.
func NewPainter(w io.Writer) *Painter { return &Painter{w: w} }

// Forget has the next block painted below whatever is there now.
func (p *Painter) Forget() { p.block = nil }

// Paint replaces the block by lines, on a terminal that has cols columns now.
// It writes what has changed, at once, and nothing if nothing has.
func (p *Painter) Paint(lines []Line, cols int) error {
	if cols == p.cols && slices.Equal(lines, p.block) {
		return nil
	}
	same := 0 // rows that stay; their lines are the same
	b := &p.buf
	b.Reset()
	// While a line is written that has to keep to its row, the terminal cuts
	// it at the edge, in case it takes characters to be wider than we do.
	b.WriteString("\x1b[?7l")
	up := 0
	for _, l := range p.block {
		// Terminals that break lines anew when they get narrower have broken
		// the block like this, and what they had to push out above stays
		// there. Others have cut it; with those some rows above it are lost.
		up += l.rows(cols)
	}
	if up > 0 {
		fmt.Fprintf(b, "\x1b[%dA\r", up)
	}
	keep := cols == p.cols
	for i, l := range lines {
		old := i < len(p.block)
		if keep && old && p.block[i] == l {
			same += l.rows(cols)
			continue
		}
		if same > 0 {
			fmt.Fprintf(b, "\x1b[%dB\r", same)
			same = 0
		}
		if keep && (!old || p.block[i].rows(cols) != l.rows(cols)) {
			keep = false // all that follows moves
			b.WriteString("\x1b[J")
		}
		if !keep && i == 0 {
			b.WriteString("\x1b[J")
		}
		if l.Wrap {
			b.WriteString("\x1b[?7h" + l.Text)
		} else {
			b.WriteString(l.Text)
		}
		if keep && (l.Width%cols != 0 || l.Width == 0) {
			b.WriteString("\x1b[K") // at the edge it would take the last character
		}
		if l.Wrap {
			b.WriteString("\x1b[?7l")
		}
		b.WriteString("\r\n")
	}
	if same > 0 {
		fmt.Fprintf(b, "\x1b[%dB\r", same)
	}
	if len(lines) < len(p.block) {
		b.WriteString("\x1b[J")
	}
	b.WriteString("\x1b[?7h")
	p.block, p.cols = lines, cols
	_, err := p.w.Write(b.Bytes())
	return err
}
