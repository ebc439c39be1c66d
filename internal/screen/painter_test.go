package screen

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func block(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// TestPaint paints all views over one another in random order, on a terminal
// whose size changes: what was there before stays, and nothing of former blocks.
func TestPaint(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	var names []string
	for name := range views {
		names = append(names, name)
	}
	for range 200 {
		cols, rows := 80, 24
		v := newVT(t, cols, rows)
		v.Write([]byte("$ echo before\r\nbefore\r\n$ adit http 3000\r\n"))
		before := v.text()
		p := NewPainter(v)
		for step := range 40 {
			if rnd.IntN(4) == 0 {
				cols = 30 + rnd.IntN(100)
				v.resize(cols)
			}
			up := 0
			for _, l := range p.block {
				up += l.rows(cols)
			}
			view := views[names[rnd.IntN(len(names))]]
			lines := Render(view, cols, rows, Style{Plain: true, Unicode: true})
			if err := p.Paint(lines, cols); err != nil {
				t.Fatal(err)
			}
			if got := v.text(); up >= rows && strings.HasSuffix(got, block(lines)) {
				break // the former block has scrolled out in part, and that stays
			}
			if got, want := v.text(), before+block(lines); got != want {
				t.Fatalf("step %d, %d columns: got\n%swant\n%s", step, cols, got, want)
			}
			if v.col != 0 || v.nowrap || v.row != len(v.lines)-1 && strings.TrimSpace(string(v.lines[v.row].cells)) != "" {
				t.Fatalf("step %d: the cursor is in row %d of %d, column %d", step, v.row, len(v.lines), v.col)
			}
		}
	}
}

// TestPaintWritesLittle writes nothing if nothing has changed, and else what
// has.
func TestPaintWritesLittle(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	p := NewPainter(&out)
	v := views["reconnecting"]
	lines := Render(v, 80, 24, Style{Plain: true})
	p.Paint(lines, 80)
	out.Reset()
	p.Paint(Render(v, 80, 24, Style{Plain: true}), 80)
	if out.Len() > 0 {
		t.Errorf("wrote %q, want nothing", out.String())
	}
	v.Retry = v.Retry.Add(-1e9)
	p.Paint(Render(v, 80, 24, Style{Plain: true}), 80)
	if got := out.String(); !strings.Contains(got, "again in 3 s") || len(got) > 120 || strings.Contains(got, "\x1b[J") {
		t.Errorf("wrote %q, want one line", got)
	}
}

// TestPaintOnCuttingTerminal gets narrower where lines are cut: nothing of the
// former block stays.
func TestPaintOnCuttingTerminal(t *testing.T) {
	t.Parallel()
	v := newVT(t, 80, 24)
	v.cuts = true
	v.Write([]byte(strings.Repeat("before\r\n", 10)))
	p := NewPainter(v)
	for _, cols := range []int{80, 40, 60, 35, 100} {
		v.resize(cols)
		lines := Render(views["connected"], cols, 24, Style{Plain: true, Unicode: true})
		p.Paint(lines, cols)
		if got := strings.TrimLeft(strings.ReplaceAll(v.text(), "before\n", ""), "\n"); got != block(lines) {
			t.Errorf("%d columns: got\n%swant\n%s", cols, got, block(lines))
		}
	}
}

// TestForget paints below what others have written since.
func TestForget(t *testing.T) {
	t.Parallel()
	v := newVT(t, 80, 24)
	p := NewPainter(v)
	lines := Render(views["connected"], 80, 24, Style{Plain: true, Unicode: true})
	p.Paint(lines, 80)
	v.Write([]byte("[1]+ Stopped\r\n$ fg\r\n"))
	p.Forget()
	p.Paint(lines, 80)
	if got, want := v.text(), block(lines)+"[1]+ Stopped\n$ fg\n"+block(lines); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
