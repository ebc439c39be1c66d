package screen

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// Columns. Beyond the most, a line is not easier to read.
	minCols = 20
	maxCols = 110

	minRows     = 4
	maxRequests = 20
	maxLogs     = 3

	// keptForRequests are the rows that many tunnels leave to requests.
	keptForRequests = 6
)

// usualCarrier need not be told to anybody.
const usualCarrier = "websocket"

// Render returns the lines that show v on a terminal of that size. No line is
// wider than it, but for addresses that have Wrap, and together they leave its
// last row free.
func Render(v View, cols, rows int, style Style) []Line {
	r := &renderer{v: v, style: style, cols: max(cols, minCols), rows: max(rows, minRows) - 1}
	r.wide = min(r.cols, maxCols)
	return r.render()
}

type renderer struct {
	v     View
	style Style
	cols  int // of the terminal
	wide  int // what of them is used
	rows  int // for lines
}

// render puts the sections together, the less important ones only as far as
// there is room.
func (r *renderer) render() []Line {
	tunnels, state := r.tunnels(false), slices.Concat(r.state(), r.notes())
	logs, end := r.logs(maxLogs), r.end()
	room := func(above int) int { // rows that are left below that many
		n := r.rows - above - len(state) - 1
		for _, section := range [][]Line{logs, end} {
			if len(section) > 0 {
				n -= len(section) + 1
			}
		}
		return n
	}
	wanted := min(len(r.v.Requests), keptForRequests)
	if wanted > 0 {
		wanted++ // an empty line
	}
	if r.height(slices.Concat(tunnels...)) > room(wanted) {
		tunnels = r.tunnels(true)
	}
	if r.height(slices.Concat(tunnels...)) > room(wanted) {
		end, logs = nil, r.logs(1)
	}
	above := r.shorten(tunnels, max(1, room(wanted)))
	requests := r.requests(min(max(room(r.height(above))-1, 0), maxRequests))

	var lines []Line
	for _, section := range [][]Line{above, state, requests, logs, end} {
		if len(section) == 0 {
			continue
		}
		if len(lines) > 0 {
			lines = append(lines, Line{})
		}
		lines = append(lines, section...)
	}
	if r.height(lines) > r.rows {
		lines = slices.DeleteFunc(lines, func(l Line) bool { return l.Width == 0 })
	}
	for r.height(lines) > r.rows && len(lines) > 1 {
		lines = lines[:len(lines)-1]
	}
	return lines
}

func (r *renderer) height(lines []Line) (n int) {
	for _, l := range lines {
		n += l.rows(r.cols)
	}
	return n
}

func (r *renderer) new() *writer { return &writer{style: r.style} }

// fit is add, cut to what is left of the line.
func (r *renderer) fit(w *writer, ro role, s string) *writer {
	return w.add(ro, r.style.cut(r.style.clean(s), max(0, r.wide-w.width)))
}

// tunnels says where the public finds what, with few in one line each if
// possible. An address is never cut: it is there to be clicked on, or copied.
func (r *renderer) tunnels(few bool) (tunnels [][]Line) {
	column := 0 // of the upstreams
	for _, t := range r.v.Tunnels {
		name := t.Name
		if len(t.URLs) > 0 {
			name = t.URLs[0]
		}
		column = max(column, width(r.style.clean(name)))
	}
	longest := 0
	for _, t := range r.v.Tunnels {
		longest = max(longest, len(" -> ")+2+width(r.style.clean(t.Upstream)))
	}
	beside := column+longest <= r.wide
	for _, t := range r.v.Tunnels {
		var lines []Line
		w := r.new()
		switch {
		case len(t.URLs) > 0:
			w.add(strong, t.URLs[0])
		default:
			r.fit(w, normal, t.Name)
		}
		if !beside && w.width > 0 {
			lines = append(lines, r.address(w))
			w = r.new()
		}
		if beside {
			w.to(column + 2)
		} else {
			w.to(2)
		}
		r.fit(w, faint, "-> ")
		r.fit(w, normal, t.Upstream)
		lines = append(lines, r.health(w, t)...)
		for i, u := range t.URLs {
			if i > 0 && !few {
				lines = append(lines, r.address(r.new().to(2).add(normal, u)))
			}
		}
		tunnels = append(tunnels, lines)
	}
	return tunnels
}

func (r *renderer) address(w *writer) Line {
	l := w.line()
	l.Wrap = l.Width > r.cols
	return l
}

// health adds to a line whether the upstream answers, or a line if there is not
// enough room.
func (r *renderer) health(w *writer, t Tunnel) []Line {
	switch {
	case t.Health == Up && w.width+len("  answers") <= r.wide:
		w.add(normal, "  answers")
	case t.Problem == "" && t.Health != Down:
	default:
		text := t.Problem
		if t.Health == Down {
			text = "does not answer: " + text
		}
		if w.width+2+width(r.style.clean(text)) <= r.wide {
			w.add(bad, "  "+text)
			break
		}
		lines := []Line{w.line()}
		for _, s := range r.style.wrap(r.style.clean(text), r.wide-5, 2) {
			lines = append(lines, r.new().to(5).add(bad, s).line())
		}
		return lines
	}
	return []Line{w.line()}
}

// shorten returns the lines of as many tunnels as there are rows for.
func (r *renderer) shorten(tunnels [][]Line, rows int) (lines []Line) {
	if r.height(slices.Concat(tunnels...)) <= rows {
		return slices.Concat(tunnels...)
	}
	for i, t := range tunnels {
		if i > 0 && r.height(lines)+r.height(t)+1 > rows {
			return append(lines, r.fit(r.new(), faint, fmt.Sprintf("and %d more", len(tunnels)-i)).line())
		}
		lines = append(lines, t...)
	}
	return lines
}

// state says how the agent stands with its server.
func (r *renderer) state() (lines []Line) {
	v := r.v
	color := map[Phase]role{Connected: good, Refused: bad, Stopped: faint}[v.Phase]
	if color == normal {
		color = warn
	}
	dot := "*"
	if r.style.Unicode {
		dot = "●"
	}
	w := r.new().add(color, dot).add(normal, " ").add(strong, string(v.Phase))
	switch v.Phase {
	case Connected:
		r.fit(w, normal, "  "+v.Server)
		if v.RoundTrip > 0 {
			text := "round trip " + roundTrip(v.RoundTrip)
			if v.Carrier != "" && v.Carrier != usualCarrier {
				text += " by " + v.Carrier
			}
			lines = r.beside(lines, &w, text)
		}
	case Connecting:
		r.fit(w, normal, "  "+v.Server)
	case Stopping:
		r.fit(w, normal, "  giving visitors some seconds to finish")
	case Waiting, Reconnecting, Refused:
		r.fit(w, normal, "  "+v.Server)
		again := "trying now"
		if left := v.Retry.Sub(v.Now); !v.Retry.IsZero() && left > 0 {
			again = "again in " + countdown(left)
		}
		lines = r.beside(lines, &w, again)
	}
	lines = append(lines, w.line())
	for _, s := range r.style.wrap(r.style.clean(v.Reason), r.wide-2, 4) {
		lines = append(lines, r.new().to(2).add(normal, s).line())
	}
	return append(lines, r.counts()...)
}

// beside adds text to the line of w, or begins another with it.
func (r *renderer) beside(lines []Line, w **writer, text string) []Line {
	if (*w).width+2+width(text) <= r.wide {
		(*w).add(normal, "  "+text)
		return lines
	}
	lines = append(lines, (*w).line())
	*w = r.fit(r.new(), normal, "  "+text)
	return lines
}

// counts says what has happened, as far as something has.
func (r *renderer) counts() []Line {
	v := r.v
	var parts []string
	if v.Requested > 0 {
		parts = append(parts, plural(v.Requested, "request"))
	}
	if v.Streams.Total > 0 {
		parts = append(parts, fmt.Sprintf("%s, %d open", plural(v.Streams.Total, "connection"), v.Streams.Open))
	}
	if v.Reconnects > 0 {
		parts = append(parts, plural(uint64(v.Reconnects), "reconnect"))
	}
	if len(parts) == 0 {
		return nil
	}
	var lines []Line
	for _, s := range r.style.wrap(strings.Join(parts, ", "), r.wide-2, 2) {
		lines = append(lines, r.new().to(2).add(faint, s).line())
	}
	return lines
}

func plural(n uint64, word string) string {
	if n != 1 {
		word += "s"
	}
	return fmt.Sprintf("%d %s", n, word)
}

// notes have a mark that is coloured, and text that is not: not every colour
// can be read well on every ground.
func (r *renderer) notes() (lines []Line) {
	for _, n := range r.v.Notes {
		for i, s := range r.style.wrap(r.style.clean(n), r.wide-2, 2) {
			w := r.new()
			if i == 0 {
				w.add(warn, "!")
			}
			lines = append(lines, w.to(2).add(normal, s).line())
		}
	}
	return lines
}

// logs lists the latest n, each in two lines if it is long.
func (r *renderer) logs(n int) (lines []Line) {
	logs := r.v.Logs
	for _, l := range logs[max(0, len(logs)-n):] {
		w := r.new().add(faint, clock(l.Time)).add(normal, "  ")
		ro := warn
		if l.Level == "error" {
			ro = bad
		}
		w.add(ro, l.Level).to(w.width + len("error  ") - width(l.Level))
		text := l.Text
		if l.Count > 1 {
			text = fmt.Sprintf("(%d times) %s", l.Count, text)
		}
		at := w.width
		for i, s := range r.style.wrap(r.style.clean(text), max(1, r.wide-at), 2) {
			if i > 0 {
				lines = append(lines, w.line())
				w = r.new().to(at)
			}
			w.add(normal, s)
		}
		lines = append(lines, w.line())
	}
	return lines
}

func (r *renderer) end() []Line {
	switch r.v.Phase {
	case Stopped:
		return nil
	case Stopping:
		return []Line{r.fit(r.new(), faint, "Ctrl-C ends it at once").line()}
	}
	return []Line{r.fit(r.new(), faint, "Ctrl-C ends it").line()}
}

func clock(t time.Time) string { return t.Format(time.TimeOnly) }
