package screen

import (
	"strconv"
	"strings"
	"testing"
)

// A vt is a terminal as far as a Painter needs one. When its width changes it
// breaks lines anew, as most do, or cuts them.
type vt struct {
	t          testing.TB
	cols, rows int
	cuts       bool
	lines      []vtRow // from the first that was ever written
	row, col   int     // of the cursor; col is cols behind a full row
	nowrap     bool
}

type vtRow struct {
	cells []rune // -1 is the second half of a wide one
	goes  bool   // on in the next row
}

func newVT(t testing.TB, cols, rows int) *vt {
	return &vt{t: t, cols: cols, rows: rows, lines: make([]vtRow, 1)}
}

func (v *vt) Write(p []byte) (int, error) {
	for s := string(p); s != ""; {
		if rest, ok := strings.CutPrefix(s, "\x1b["); ok {
			end := strings.IndexFunc(rest, func(r rune) bool { return r >= '@' && r <= '~' })
			v.control(rest[:end], rest[end])
			s = rest[end+1:]
			continue
		}
		for i, r := range s {
			v.put(r)
			if i+len(string(r)) == len(s) || s[i+len(string(r))] == '\x1b' {
				s = s[i+len(string(r)):]
				break
			}
		}
	}
	return len(p), nil
}

func (v *vt) top() int { return max(0, len(v.lines)-v.rows) }

func (v *vt) control(arg string, f byte) {
	n, _ := strconv.Atoi(arg)
	at := min(v.col, v.cols-1)
	line := &v.lines[v.row]
	switch {
	case f == 'A':
		v.row, v.col = max(v.top(), v.row-n), at
	case f == 'B':
		v.row, v.col = min(v.top()+v.rows-1, v.row+n), at
		v.extend()
	case f == 'J' && arg == "":
		clear(v.lines[v.row+1:])
		line.cells, line.goes = line.cells[:min(at, len(line.cells))], false
	case f == 'K' && arg == "":
		line.cells, line.goes = line.cells[:min(at, len(line.cells))], false
	case f == 'h' && arg == "?7":
		v.nowrap = false
	case f == 'l' && arg == "?7":
		v.nowrap = true
	case f == 'm':
	default:
		v.t.Errorf("escape sequence %q%c", arg, f)
	}
}

func (v *vt) extend() {
	for v.row >= len(v.lines) {
		v.lines = append(v.lines, vtRow{})
	}
}

func (v *vt) put(r rune) {
	switch {
	case r == '\r':
		v.col = 0
	case r == '\n':
		v.row++
		v.extend()
	case r < ' ' || r >= 0x7f && r < 0xa0:
		v.t.Errorf("control character %q", r)
	default:
		n := columns(r)
		if v.col+n > v.cols {
			if v.nowrap {
				v.col = v.cols - n
			} else {
				v.lines[v.row].goes = true
				v.row, v.col = v.row+1, 0
				v.extend()
			}
		}
		line := &v.lines[v.row]
		for len(line.cells) < v.col+n {
			line.cells = append(line.cells, ' ')
		}
		for i := range n {
			line.cells[v.col+i] = -1
		}
		if n > 0 {
			line.cells[v.col] = r
		}
		v.col += n
	}
}

// resize gives the terminal another width.
func (v *vt) resize(cols int) {
	if v.cuts {
		for i := range v.lines {
			v.lines[i].cells = v.lines[i].cells[:min(cols, len(v.lines[i].cells))]
		}
		v.cols = cols
		return
	}
	var lines []vtRow
	row := 0
	for i := 0; i < len(v.lines); i++ {
		var whole []rune
		for ; ; i++ {
			if i == v.row {
				row = len(lines) + (len(whole)+v.col)/cols
			}
			whole = append(whole, v.lines[i].cells...)
			if !v.lines[i].goes || i+1 == len(v.lines) {
				break
			}
		}
		for len(whole) > cols {
			lines = append(lines, vtRow{whole[:cols:cols], true})
			whole = whole[cols:]
		}
		lines = append(lines, vtRow{cells: whole})
	}
	v.lines, v.row, v.cols = lines, row, cols
	v.extend()
	for n := len(v.lines); n > v.row+1 && len(v.lines[n-1].cells) == 0; n-- {
		v.lines = v.lines[:n-1] // empty rows give way
	}
}

// text returns all that was ever written and not written over.
func (v *vt) text() string {
	var b strings.Builder
	for _, l := range v.lines {
		for _, r := range l.cells {
			if r >= 0 {
				b.WriteRune(r)
			}
		}
		if !l.goes {
			b.WriteByte('\n')
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
