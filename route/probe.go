package route

import (
	"context"
	"time"

	"adit/tunnel"
)

// An agent that dies without a word is noticed by its heartbeat only after many
// seconds. Where another one could take over, tunnels are asked more often while
// visitors go to them, and given up after silenceLimit. The worst case from the
// last byte on is askAfter + lookEvery + silenceLimit + lookEvery.
const (
	lookEvery    = 250 * time.Millisecond
	askAfter     = 500 * time.Millisecond // of silence
	silenceLimit = 2500 * time.Millisecond
	askAgain     = time.Second      // while it is silent
	mindFor      = 10 * time.Second // after the last visitor
)

// aliveLocked returns a context that ends when the tunnel is given up.
func (w *watch) aliveLocked() context.Context {
	if w.alive == nil {
		w.alive, w.giveUp = context.WithCancelCause(context.Background())
	}
	return w.alive
}

// giveUpLocked lets go of those who wait for the tunnel and could go to another.
func (w *watch) giveUpLocked() {
	if w.alive != nil {
		w.giveUp(errGivenUp)
		w.alive, w.giveUp = nil, nil
	}
}

// mindLocked sees to it that somebody looks whether the tunnel is silent. A
// visitor is about to go there.
func (t *Table) mindLocked(w *watch) {
	w.picked = time.Now()
	if p, ok := w.tunnel.(tunnel.Prober); ok && !w.minded && !t.closed {
		w.minded = true
		t.running.Go(func() { t.mind(p, w) })
	}
}

// mind looks after a tunnel until nobody goes there any more.
func (t *Table) mind(p tunnel.Prober, w *watch) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		ask, more, woken := t.listen(p.Heard(), w)
		signal(woken)
		if !more {
			return
		}
		if ask {
			p.Probe()
		}
		select {
		case <-tick.C:
		case <-w.done:
		case <-t.closing:
		}
	}
}

// listen draws conclusions from when something of a tunnel was heard last. It
// reports whether it is to be asked, and whether anybody wants to know.
func (t *Table) listen(heard time.Time, w *watch) (ask, more bool, woken []*waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.closed || w.endedLocked() || !w.silent && now.Sub(w.picked) > mindFor {
		w.minded = false
		return false, false, nil
	}
	if heard.After(w.asked) {
		w.asked, w.since = time.Time{}, time.Time{}
		if w.silent {
			w.silent = false
			t.opts.Logger.Info("agent heard again", "tunnel", string(w.tunnel.ID()))
			for _, e := range w.entries {
				woken = append(woken, t.wakeLocked(t.servedByLocked(e))...)
			}
		}
	}
	switch {
	case !w.available:
		w.asked, w.since = time.Time{}, time.Time{}
	case w.since.IsZero():
		if now.Sub(heard) >= askAfter {
			w.asked, w.since, ask = now, now, true
		}
	default:
		if !w.silent && now.Sub(w.since) >= silenceLimit {
			w.silent = true
			t.givenUp++
			w.giveUpLocked()
			t.opts.Logger.Warn("agent silent: visitors go to others", "tunnel", string(w.tunnel.ID()), "dur", now.Sub(heard).Round(time.Millisecond))
		}
		if now.Sub(w.lastAsk) >= askAgain {
			ask = true
		}
	}
	if ask {
		w.lastAsk = now
	}
	return ask, true, woken
}
