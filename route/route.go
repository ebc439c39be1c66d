package route

import (
	"container/list"
	"context"
	"fmt"
	"strings"
	"time"

	"adit/tunnel"
)

// A waiter is a visitor that waits for a tunnel.
type waiter struct {
	ready chan struct{} // closed when entry is set
	entry *entry        // guarded by Table.mu
	at    *list.Element // in its slot's waiters
}

// Route returns the tunnel and the service that key leads to: a hostname in
// lower case without port or trailing dot, "/" and an ID, or ":" and a port.
// Of several tunnels it takes each in turn, and none that is known to be away.
//
// If none is available Route waits for Options.Hold; ctx bounds the wait. The
// error wraps tunnel.ErrNoRoute if the name is not known, tunnel.ErrOffline if
// the wait was in vain, tunnel.ErrQueueFull if too many wait already, or it is
// ctx's error. The tunnel may still end or be away before it is used.
func (t *Table) Route(ctx context.Context, key string) (tunnel.Tunnel, string, error) {
	for {
		t.mu.Lock()
		s := t.lookupLocked(key)
		if s == nil {
			t.mu.Unlock()
			return nil, "", fmt.Errorf("route %.80q: %w", key, tunnel.ErrNoRoute)
		}
		if e := s.pickLocked(); e != nil {
			t.mu.Unlock()
			return e.Tunnel, e.Service, nil
		}
		w, err := t.holdLocked(s)
		t.mu.Unlock()
		if err != nil {
			return nil, "", fmt.Errorf("route %.80q: %w", key, err)
		}
		err = t.wait(ctx, w)
		e, woken := t.leave(s, w)
		switch {
		case e != nil: // perhaps at the last moment
			return e.Tunnel, e.Service, nil
		case !woken:
			return nil, "", fmt.Errorf("route %.80q: %w", key, err)
		}
		// What woke it has gone again.
	}
}

func (t *Table) lookupLocked(key string) *slot {
	if id, ok := strings.CutPrefix(key, "/"); ok {
		return t.byID[id]
	}
	if t.suffix != "" {
		if id, ok := strings.CutSuffix(key, t.suffix); ok {
			return t.byID[id]
		}
	}
	return t.byKey[key]
}

// holdLocked lets a visitor wait at s, if there is a prospect and room.
func (t *Table) holdLocked(s *slot) (*waiter, error) {
	switch {
	case len(s.entries) == 0 && !time.Now().Before(s.servedUntil):
		return nil, tunnel.ErrNoRoute
	case t.opts.Hold == 0:
		return nil, tunnel.ErrOffline
	case t.held >= t.opts.MaxHeld || s.waiters.Len() >= t.opts.MaxHeldPerName:
		return nil, tunnel.ErrQueueFull
	}
	w := &waiter{ready: make(chan struct{})}
	w.at = s.waiters.PushBack(w)
	t.held++
	return w, nil
}

// wait returns nil when w was woken.
func (t *Table) wait(ctx context.Context, w *waiter) error {
	timer := time.NewTimer(t.opts.Hold)
	defer timer.Stop()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	case <-t.closing:
	}
	return tunnel.ErrOffline
}

// leave ends w's wait. It reports whether w was woken, and the entry that it
// got if that is still in the table.
func (t *Table) leave(s *slot, w *waiter) (e *entry, woken bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.entry == nil {
		s.waiters.Remove(w.at)
		t.held--
		return nil, false
	}
	if w.entry.removed {
		return nil, true
	}
	return w.entry, true
}

// wakeLocked gives the waiters of slots a tunnel, each slot's in the order in
// which they came. The caller signals them when it has left the lock.
func (t *Table) wakeLocked(slots []*slot) (woken []*waiter) {
	for _, s := range slots {
		for el := s.waiters.Front(); el != nil; el = s.waiters.Front() {
			e := s.pickLocked()
			if e == nil {
				break
			}
			w := s.waiters.Remove(el).(*waiter)
			w.entry = e
			t.held--
			woken = append(woken, w)
		}
	}
	return woken
}

func signal(woken []*waiter) {
	for _, w := range woken {
		close(w.ready)
	}
}
