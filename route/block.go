package route

import (
	"fmt"
	"slices"
	"strings"

	"adit/tunnel"
)

// A BlockedError says that the operator has blocked a name. It wraps
// tunnel.ErrBlocked.
type BlockedError struct {
	Name string // as Block takes it
}

func (e *BlockedError) Error() string { return fmt.Sprintf("%q is blocked", e.Name) }

// Unwrap returns tunnel.ErrBlocked.
func (e *BlockedError) Unwrap() error { return tunnel.ErrBlocked }

// Block takes a name out of use, in all spellings that differ in case alone: an
// ID, with its hostnames and ports, or a hostname. Route and Add fail for it from then on, visitors that wait at it
// wait no longer, and the tunnels that serve it are returned; to end what goes
// through them is up to the caller. Tunnels that a rule leads to are not among
// them: they serve other names too.
func (t *Table) Block(name string) []tunnel.Tunnel {
	t.mu.Lock()
	if t.blocked == nil {
		t.blocked = make(map[string]bool)
	}
	folded := strings.ToLower(name)
	t.blocked[folded] = true
	var serving []tunnel.Tunnel
	var woken []*waiter
	for _, m := range []map[string]*slot{t.byID, t.byKey, t.rules} {
		for _, s := range m {
			if strings.ToLower(strings.TrimPrefix(s.name, "/")) != folded && strings.ToLower(string(s.id)) != folded {
				continue
			}
			for _, e := range s.entries {
				if !slices.Contains(serving, e.Tunnel) {
					serving = append(serving, e.Tunnel)
				}
			}
			woken = append(woken, t.turnAwayLocked(s, &BlockedError{name})...)
		}
	}
	t.mu.Unlock()
	signal(woken)
	return serving
}

// turnAwayLocked ends the waits at s with err. The caller signals the waiters
// when it has left the lock.
func (t *Table) turnAwayLocked(s *slot, err error) (woken []*waiter) {
	for el := s.waiters.Front(); el != nil; el = s.waiters.Front() {
		w := s.waiters.Remove(el).(*waiter)
		w.err = err
		t.held--
		woken = append(woken, w)
	}
	if s.guess && len(woken) > 0 {
		delete(s.in, s.name)
	}
	return woken
}

// Unblock lets a name be used again.
func (t *Table) Unblock(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.blocked, strings.ToLower(name))
}

// blocksLocked reports whether a name is blocked.
func (t *Table) blocksLocked(name string) bool {
	return len(t.blocked) > 0 && t.blocked[strings.ToLower(name)]
}

// blockLocked returns a *BlockedError if the name of a slot is blocked, or the
// ID that has it; s may be nil.
func (t *Table) blockLocked(name string, s *slot) error {
	switch {
	case t.blocksLocked(name):
		return &BlockedError{name}
	case s != nil && t.blocksLocked(string(s.id)):
		return &BlockedError{string(s.id)}
	}
	return nil
}
