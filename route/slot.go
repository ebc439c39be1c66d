package route

import (
	"container/list"
	"slices"
	"time"

	"adit/tunnel"
)

// A slot is a name, with the tunnels behind it. Its table's mutex guards it.
type slot struct {
	in   map[string]*slot // byID or byKey
	name string           // its key there
	key  string           // as Route takes it

	owner   string
	id      tunnel.ID
	holders []*entry  // that keep the name for the owner; a superset of entries
	until   time.Time // how long the owner keeps it without holders

	entries     []*entry // that serve visitors
	turns       []*entry // of these the first of each run, and those without one
	next        int      // of turns
	spin        int      // where the search among those of one run begins
	tls         bool     // what the entries are, or were last
	servedUntil time.Time

	waiters list.List // of *waiter, first come first served
	seen    bool      // it is in Table.seen
	plan    *plan     // of a rule's slot, which has nothing else but its names and waiters
	guess   bool      // nobody has held it yet: it is there for its waiters alone
}

// slotLocked returns the slot of a name, and makes it if need be.
func (t *Table) slotLocked(in map[string]*slot, name, key string) *slot {
	s := in[name]
	if s == nil {
		s = &slot{in: in, name: name, key: key}
		in[name] = s
	}
	return s
}

// openToLocked reports whether b may bind the slot's name.
func (s *slot) openToLocked(b Entry, now time.Time) bool {
	switch {
	case s.guess:
		return true
	case len(s.holders) > 0:
		return s.owner == b.Owner && s.id == b.ID
	case s.waiters.Len() > 0 || now.Before(s.until):
		return s.owner == b.Owner
	}
	return true
}

// otherKindLocked reports whether the slot, which may be nil, serves visitors of
// another kind than b. An agent that comes back replaces what it had.
func (s *slot) otherKindLocked(b Entry) bool {
	if s == nil || s.tls == b.TLS {
		return false
	}
	for _, e := range s.entries {
		if e.Tunnel == b.Tunnel || !b.replaces(e) {
			return true
		}
	}
	return false
}

func (s *slot) takeLocked(e *entry) {
	if s.owner != e.Owner || s.id != e.ID {
		s.owner, s.id = e.Owner, e.ID
		s.servedUntil = time.Time{}
	}
	s.guess = false
	s.holders = append(s.holders, e)
}

// releaseLocked is the opposite of takeLocked.
func (t *Table) releaseLocked(s *slot, e *entry, until time.Time) {
	s.holders = without(s.holders, e)
	if len(s.holders) > 0 {
		return
	}
	s.until = until
	if !s.seen {
		s.seen = true
		t.seen = append(t.seen, s)
	}
	t.sweepLocked()
}

// sweepLocked forgets the slots that nobody holds or waits at and whose time
// is over, and comes back for the others.
func (t *Table) sweepLocked() {
	now := time.Now()
	for range len(t.seen) {
		s := t.seen[0]
		unheld, waited := len(s.holders) == 0, s.waiters.Len() > 0
		if unheld && !waited && now.Before(s.until) && len(t.seen) <= maxSeen {
			break // those behind it are younger
		}
		t.seen[0] = nil
		t.seen = t.seen[1:]
		if unheld && waited {
			t.seen = append(t.seen, s)
			continue
		}
		s.seen = false
		if unheld {
			delete(s.in, s.name)
		}
	}
	if len(t.seen) == 0 {
		t.seen = nil
		return
	}
	// One timer for all: what it leaves is found the next time.
	wait := max(time.Until(t.seen[0].until), time.Second)
	if t.sweeper == nil {
		t.sweeper = time.AfterFunc(wait, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			if !t.closed {
				t.sweepLocked()
			}
		})
		return
	}
	t.sweeper.Reset(wait)
}

// enterLocked adds an entry that serves visitors.
func (s *slot) enterLocked(e *entry) {
	if s.turnOfLocked(e) < 0 {
		s.turns = append(s.turns, e)
	}
	s.entries = append(s.entries, e)
}

// leaveLocked takes an entry out.
func (s *slot) leaveLocked(e *entry) {
	s.entries = without(s.entries, e)
	at := slices.Index(s.turns, e)
	if at < 0 {
		return
	}
	if i := slices.IndexFunc(s.entries, e.isWith); i >= 0 {
		s.turns[at] = s.entries[i]
		return
	}
	s.turns = slices.Delete(s.turns, at, at+1)
}

// turnOfLocked returns the place in turns of the run that e belongs to, or -1.
func (s *slot) turnOfLocked(e *entry) int {
	if e.Run == "" {
		return -1
	}
	return slices.IndexFunc(s.turns, e.isWith)
}

// isWith reports whether e and o are tunnels of one process.
func (e *entry) isWith(o *entry) bool {
	return e.Run != "" && e.Run == o.Run && e.Instance == o.Instance
}
