package screen

import "strconv"

// The columns of the list of requests, besides that of the targets, which gets
// what is left.
const (
	colTime     = 8 + 2
	colMethod   = 7 + 1
	colTunnel   = 12 + 2 // at most
	colStatus   = 2 + 4
	colDuration = 2 + 7
	colSize     = 2 + 7

	// From these widths on there is room for them.
	colsForTime   = 56
	colsForSize   = 70
	colsForTunnel = 70
)

// requests lists the latest n.
func (r *renderer) requests(n int) (lines []Line) {
	all := r.v.Requests
	shown := all[max(0, len(all)-n):]
	tunnel := 0
	if len(r.v.Tunnels) > 1 && r.wide >= colsForTunnel {
		for _, q := range r.v.Tunnels {
			tunnel = min(max(tunnel, width(r.style.clean(q.Name))+2), colTunnel)
		}
	}
	end := r.wide
	if r.wide >= colsForSize {
		end -= colSize
	}
	took := end
	status := took - colDuration
	target := status - colStatus
	for _, q := range shown {
		w := r.new()
		if r.wide >= colsForTime {
			w.add(faint, clock(q.Time)).to(colTime)
		}
		at := w.width
		if tunnel > 0 {
			w.add(normal, r.style.cut(r.style.clean(q.Tunnel), tunnel-2)).to(at + tunnel)
			at = w.width
		}
		w.add(normal, r.style.cut(r.style.clean(q.Method), colMethod-1)).to(at + colMethod)
		w.add(normal, r.style.cut(r.style.clean(q.Target), target-w.width))
		ro, text := outcome(q)
		w.right(status, ro, text)
		switch {
		case q.Done:
			w.right(took, normal, duration(q.Duration))
		case q.Status != 0 || q.Conn:
			w.right(took, faint, "open")
		}
		if r.wide >= colsForSize && q.Done {
			w.right(r.wide, normal, size(q.Sent))
		}
		lines = append(lines, w.line())
	}
	return lines
}

// outcome is what became of a request.
func outcome(q Request) (role, string) {
	switch {
	case q.Left && q.Status != 101:
		return faint, "left"
	case q.Broken && q.Status != 101:
		return bad, "cut"
	case q.Conn:
		return normal, ""
	case q.Status == 0:
		return faint, "..."
	case q.Status >= 500:
		return bad, strconv.Itoa(q.Status)
	case q.Status >= 400:
		return warn, strconv.Itoa(q.Status)
	case q.Status >= 200 && q.Status < 300:
		return good, strconv.Itoa(q.Status)
	}
	return normal, strconv.Itoa(q.Status)
}
