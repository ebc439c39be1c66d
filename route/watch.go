package route

import (
	"context"
	"time"

	"adit/tunnel"
)

// A watch is what the table knows of one tunnel. There is one for each, as
// long as the tunnel lives, however many names it has. The table's mutex
// guards it.
type watch struct {
	tunnel    tunnel.Tunnel
	done      <-chan struct{}
	entries   []*entry
	available bool
	looking   bool // somebody asks the tunnel, without the lock
	again     bool // it may have changed since they asked

	// Of a tunnel beside which another one could serve; see mind.
	minded  bool      // mind runs
	picked  time.Time // when a visitor was led there last
	asked   time.Time // and was not answered yet; zero if it was
	since   time.Time // the first time of these
	lastAsk time.Time
	silent  bool            // others go before it
	alive   context.Context // for Choice.Alive; nil if nobody has it
	giveUp  context.CancelCauseFunc
}

// isAvailable asks a tunnel itself, and so must not be called under the lock.
func isAvailable(tun tunnel.Tunnel) bool {
	a, ok := tun.(tunnel.Availability)
	return !ok || a.Available()
}

// usableLocked reports whether a stream opened now has a chance.
func (w *watch) usableLocked() bool {
	return w.available && !w.endedLocked()
}

// loadLocked returns what there is to do for the tunnel. Its Load does not block.
func (w *watch) loadLocked() (streams int, stalled bool) {
	if p, ok := w.tunnel.(tunnel.Parallel); ok {
		return p.Load()
	}
	return 0, false
}

func (w *watch) endedLocked() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// watchLocked returns the tunnel's watch, and begins it if it is new: the
// caller then registers look with a tunnel that has Availability.
func (t *Table) watchLocked(tun tunnel.Tunnel, available bool) *watch {
	if w := t.watched[tun]; w != nil {
		return w
	}
	w := &watch{tunnel: tun, available: available, done: tun.Done()}
	t.watched[tun] = w
	if _, ok := tun.(tunnel.Availability); !ok {
		t.running.Go(func() { t.follow(w) })
	}
	return w
}

// follow waits for the end of a tunnel that does not tell of it.
func (t *Table) follow(w *watch) {
	select {
	case <-w.done:
	case <-t.closing:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropLocked(w)
}

// look brings w up to date. It is called whenever the tunnel has changed, from
// any goroutine, and does not block. Of several calls at once the first does
// the work of all, since answers of the tunnel could otherwise overtake one
// another.
func (t *Table) look(a tunnel.Availability, w *watch) {
	t.mu.Lock()
	if w.looking {
		w.again = true
		t.mu.Unlock()
		return
	}
	w.looking = true
	for {
		w.again = false
		t.mu.Unlock()
		available := a.Available()
		t.mu.Lock()
		woken := t.updateLocked(w, available)
		if len(woken) > 0 {
			t.mu.Unlock()
			signal(woken)
			t.mu.Lock()
		}
		if !w.again {
			break
		}
	}
	w.looking = false
	t.mu.Unlock()
}

func (t *Table) updateLocked(w *watch, available bool) (woken []*waiter) {
	if available && !w.available { // whatever it was silent on, it has a new one
		w.silent, w.asked, w.since = false, time.Time{}, time.Time{}
	}
	w.available = available
	switch {
	case t.closed:
	case w.endedLocked():
		t.dropLocked(w)
	case available:
		for _, e := range w.entries {
			woken = append(woken, t.wakeLocked(t.servedByLocked(e))...)
		}
	default:
		w.giveUpLocked()
	}
	return woken
}

// dropLocked removes all that an ended tunnel had bound.
func (t *Table) dropLocked(w *watch) {
	for len(w.entries) > 0 && !t.closed {
		t.removeLocked(w.entries[len(w.entries)-1])
	}
	w.giveUpLocked()
	delete(t.watched, w.tunnel)
}
