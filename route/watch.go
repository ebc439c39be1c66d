package route

import (
	"adit/tunnel"
)

// A watch is what the table knows of one tunnel. There is one for each, as
// long as the tunnel lives, however many names it has. The table's mutex
// guards it.
type watch struct {
	entries   []*entry
	available bool
	done      <-chan struct{}
}

// isAvailable asks a tunnel itself, and so must not be called under the lock.
func isAvailable(tun tunnel.Tunnel) bool {
	a, ok := tun.(tunnel.Availability)
	return !ok || a.Available()
}

// usableLocked reports whether a stream opened now has a chance.
func (w *watch) usableLocked() bool {
	if !w.available {
		return false
	}
	select {
	case <-w.done:
		return false
	default:
		return true
	}
}

// watchLocked returns the tunnel's watch, and begins it if it is new.
func (t *Table) watchLocked(tun tunnel.Tunnel, available bool) *watch {
	if w := t.watched[tun]; w != nil {
		return w
	}
	w := &watch{available: available, done: tun.Done()}
	t.watched[tun] = w
	t.running.Go(func() { t.follow(tun, w) })
	return w
}

// follow keeps w up to date until the tunnel ends.
func (t *Table) follow(tun tunnel.Tunnel, w *watch) {
	changed := make(chan struct{}, 1)
	if a, ok := tun.(tunnel.Availability); ok {
		look := func() {
			select {
			case changed <- struct{}{}:
			default: // the loop is yet to look, and will see the newest state
			}
		}
		a.OnAvailability(look)
		look() // it may have changed before
	}
	for {
		select {
		case <-changed:
			t.update(w, isAvailable(tun))
		case <-w.done:
			t.ended(tun, w)
			return
		case <-t.closing:
			return
		}
	}
}

func (t *Table) update(w *watch, available bool) {
	t.mu.Lock()
	w.available = available
	var woken []*waiter
	if available {
		for _, e := range w.entries {
			woken = append(woken, t.wakeLocked(e.serves)...)
		}
	}
	t.mu.Unlock()
	signal(woken)
}

// ended removes all that an ended tunnel had bound.
func (t *Table) ended(tun tunnel.Tunnel, w *watch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(w.entries) > 0 && !t.closed {
		t.removeLocked(w.entries[len(w.entries)-1])
	}
	delete(t.watched, tun)
}
