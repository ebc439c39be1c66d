package route

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"adit/tunnel"
)

// A waiter is a visitor that waits for a tunnel.
type waiter struct {
	ready chan struct{} // closed when entry is set
	limit time.Duration // of the wait
	warm  bool          // the name has no tunnel, and lately had none
	who   Visitor
	got   chosen        // guarded by Table.mu
	err   error         // why it is to get none; guarded by Table.mu until ready is closed
	at    *list.Element // in its slot's waiters
}

// Route returns the entry that key leads to: a hostname in
// lower case without port or trailing dot, "/" and an ID, what PortKey returns, or
// "@", an ID, "/" and the name of a service. Of several tunnels it takes each in turn, and none that is known to be away.
//
// If none is available Route waits for Options.Hold, and for a name that was
// never seen until Options.Warmup is over; ctx bounds the wait. The error wraps
// tunnel.ErrNoRoute if the name is not known, tunnel.ErrOffline if the wait for
// a known one was in vain, tunnel.ErrQueueFull if too many wait already,
// tunnel.ErrBlocked if the operator has blocked it, or it is ctx's error. The tunnel may still end or be away before it is used.
func (t *Table) Route(ctx context.Context, key string) (Entry, error) {
	c, err := t.RouteFor(ctx, key, Visitor{})
	return c.Entry, err
}

// RouteFor is Route for a visitor that is known, or was led to other tunnels
// before. A rule for the name goes before what agents have bound under it.
func (t *Table) RouteFor(ctx context.Context, key string, who Visitor) (Choice, error) {
	return t.route(ctx, key, who, t.opts.WarmHostnames)
}

// route is RouteFor, and also counts the warm-up for hostnames if warm is set.
func (t *Table) route(ctx context.Context, key string, who Visitor, warm bool) (Choice, error) {
	for {
		t.mu.Lock()
		s, err := t.lookupLocked(key, warm)
		var w *waiter
		if err == nil {
			if c := t.pickLocked(s, who); c.entry != nil {
				to := s.choice(c)
				t.mu.Unlock()
				return to, nil
			}
			w, err = t.holdLocked(s, who)
		}
		t.mu.Unlock()
		if err != nil {
			return Choice{}, fmt.Errorf("route %.80q: %w", key, err)
		}
		err = t.wait(ctx, w)
		to, ok, again := t.leave(s, w)
		switch {
		case ok: // perhaps at the last moment
			return to, nil
		case !again:
			return Choice{}, fmt.Errorf("route %.80q: %w", key, err)
		}
	}
}

// TLS reports whether the upstreams of a name end TLS themselves. A name is
// known as long as it has tunnels, and for Options.Hold afterwards. In the
// warm-up TLS waits for a name that is not, hostnames of entries among them;
// ctx bounds the wait.
func (t *Table) TLS(ctx context.Context, key string) (tls, known bool) {
	if tls, known = t.kind(key); known {
		return tls, true
	}
	if e, err := t.route(ctx, key, Visitor{}, true); err == nil {
		return e.TLS, true
	}
	return t.kind(key)
}

// Peek returns an entry that key leads to now, without waiting for one.
func (t *Table) Peek(key string) (Entry, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	in, name, id := t.placeLocked(key)
	if s := t.ruleLocked(name, id); s != nil {
		all, _ := t.candidatesLocked(s.plan, Visitor{})
		defer clear(all)
		if len(all) == 0 {
			return Entry{}, false
		}
		return s.choice(chosen{entry: all[0].entry}).Entry, true
	}
	if s := in[name]; s != nil && len(s.entries) > 0 {
		return s.entries[0].Entry, true
	}
	return Entry{}, false
}

// kind is TLS without the wait.
func (t *Table) kind(key string) (tls, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	in, name, id := t.placeLocked(key)
	if s := t.ruleLocked(name, id); s != nil {
		return s.plan.rule.Kind == TLS, true
	}
	s := in[name]
	if s == nil || len(s.entries) == 0 && !time.Now().Before(s.servedUntil) {
		return false, false
	}
	return s.tls, true
}

// placeLocked returns where the slot of a name is, and the name's ID if it has
// one.
func (t *Table) placeLocked(key string) (in map[string]*slot, name, id string) {
	if rest, ok := strings.CutPrefix(key, "/"); ok {
		return t.byID, rest, rest
	}
	if rest, ok := strings.CutSuffix(key, t.suffix); ok && t.suffix != "" {
		return t.byID, rest, rest
	}
	return t.byKey, key, ""
}

// lookupLocked returns the slot of a name. In the warm-up it makes one for a
// name that was not seen, in which holdLocked has to put a waiter.
func (t *Table) lookupLocked(key string, warmHostnames bool) (*slot, error) {
	in, name, id := t.placeLocked(key)
	s := t.ruleLocked(name, id)
	if s == nil {
		s = in[name]
	}
	err := t.blockLocked(name, s)
	switch {
	case err != nil:
		return nil, err
	case s != nil:
		return s, nil
	case t.closed || t.drained:
		return nil, tunnel.ErrOffline
	case t.opts.Warmup <= 0 || !time.Now().Before(t.warm):
		return nil, tunnel.ErrNoRoute
	case id != "":
		if _, err := tunnel.ParseID(id); err != nil {
			return nil, tunnel.ErrNoRoute
		}
		key = "/" + id
	case !isPort(key) && !isService(key) && !(warmHostnames && isHostname(key)):
		return nil, tunnel.ErrNoRoute
	}
	if t.held >= t.opts.MaxHeld {
		t.full++
		return nil, tunnel.ErrQueueFull
	}
	s = t.slotLocked(in, name, key)
	s.guess = true
	return s, nil
}

// isPort reports whether key is a port as PortKey writes it.
func isPort(key string) bool {
	digits, ok := strings.CutPrefix(strings.TrimSuffix(key, udpSuffix), ":")
	n, err := strconv.ParseUint(digits, 10, 16)
	return ok && err == nil && n > 0 && strconv.FormatUint(n, 10) == digits
}

// isService reports whether key is that of an entry with a name.
func isService(key string) bool {
	id, name, _ := strings.Cut(strings.TrimPrefix(key, "@"), "/")
	_, err := tunnel.ParseID(id)
	return strings.HasPrefix(key, "@") && err == nil && tunnel.CheckService(name) == nil
}

// isHostname reports whether key can be a hostname of an entry: a name with a
// dot, and no address.
func isHostname(key string) bool {
	if _, err := netip.ParseAddr(key); err == nil || len(key) > 253 {
		return false
	}
	return strings.Contains(key, ".") && !strings.ContainsAny(key, "/:") && !strings.HasSuffix(key, ".")
}

// holdLocked lets a visitor wait at s, if there is a prospect and room.
func (t *Table) holdLocked(s *slot, who Visitor) (*waiter, error) {
	w := &waiter{ready: make(chan struct{}), limit: t.opts.Hold, who: who}
	now := time.Now()
	if s.plan == nil && len(s.entries) == 0 && !now.Before(s.servedUntil) {
		w.limit, w.warm = t.warm.Sub(now), true
		if t.opts.Warmup <= 0 || w.limit <= 0 {
			return nil, tunnel.ErrNoRoute
		}
	}
	switch {
	case w.limit == 0 || t.drained:
		return nil, tunnel.ErrOffline
	case t.held >= t.opts.MaxHeld || s.waiters.Len() >= t.opts.MaxHeldPerName:
		t.full++
		return nil, tunnel.ErrQueueFull
	}
	w.at = s.waiters.PushBack(w)
	t.held++
	t.waited++
	return w, nil
}

// wait returns nil when w was woken.
func (t *Table) wait(ctx context.Context, w *waiter) error {
	timer := time.NewTimer(w.limit)
	defer timer.Stop()
	select {
	case <-w.ready:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	case <-t.closing:
		return tunnel.ErrOffline
	case <-timer.C:
	}
	if w.warm {
		return tunnel.ErrNoRoute
	}
	return tunnel.ErrOffline
}

// errAgain tells a waiter to look for its slot anew.
var errAgain = errors.New("route: the rules have changed")

// leave ends w's wait. It returns what w got if that is still in the table, and
// reports whether else it is worth to ask again: what woke w has gone, the rules
// have changed, or the name appeared in the warm-up with a tunnel that is away.
func (t *Table) leave(s *slot, w *waiter) (to Choice, ok, again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case w.err != nil:
		return Choice{}, false, w.err == errAgain
	case w.got.entry == nil:
		s.waiters.Remove(w.at)
		t.held--
		if s.guess && s.waiters.Len() == 0 && s.in[s.name] == s {
			delete(s.in, s.name)
		}
		return Choice{}, false, w.warm && len(s.entries) > 0
	case w.got.entry.removed:
		return Choice{}, false, true
	}
	return s.choice(w.got), true, false
}

// wakeLocked gives the waiters of slots a tunnel, each slot's in the order in
// which they came. The caller signals them when it has left the lock.
func (t *Table) wakeLocked(slots []*slot) (woken []*waiter) {
	for _, s := range slots {
		for el := s.waiters.Front(); el != nil; el = s.waiters.Front() {
			w := el.Value.(*waiter)
			c := t.pickLocked(s, w.who)
			if c.entry == nil {
				break
			}
			s.waiters.Remove(el)
			w.got = c
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
