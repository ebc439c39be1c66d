package requests

import "time"

// A window is how many bytes may be on their way. It grows while they arrive
// about as fast as the path is long, and shrinks when they queue on it: what
// waits in the session instead can still be overtaken by what is urgent.
type window struct {
	size   int
	least  time.Duration // shortest time that bytes took
	full   bool          // writers have waited since the last change
	sample uint64        // position whose arrival is timed; 0 if none is
	began  time.Time
}

func newWindow() window { return window{size: windowFirst} }

// sent says that bytes up to pos have been written.
func (w *window) sent(pos uint64) {
	if w.sample == 0 {
		w.sample, w.began = pos, time.Now()
	}
}

// arrived says that the other side has everything before pos.
func (w *window) arrived(pos uint64) {
	if w.sample == 0 || pos < w.sample {
		return
	}
	took := time.Since(w.began)
	w.sample = 0
	if w.least == 0 || took < w.least {
		w.least = took
	}
	switch {
	case took > 4*w.least+400*time.Millisecond:
		w.size = max(w.size/2, windowMin)
	case w.full && took < 2*w.least+60*time.Millisecond:
		w.size = min(w.size*2, windowMax)
	}
	w.full = false
}
