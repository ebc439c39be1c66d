package route

import (
	"cmp"
	"slices"

	"adit/tunnel"
)

// A NameStatus is a name at one moment.
type NameStatus struct {
	Key     string // as Route takes it; the path for an ID
	ID      tunnel.ID
	Owner   string
	Waiting int // visitors
	Blocked bool
	Tunnels []TunnelStatus
}

// A TunnelStatus is a tunnel of a name at one moment.
type TunnelStatus struct {
	Tunnel    tunnel.Tunnel
	Service   string
	Instance  string
	Available bool
}

// Snapshot returns all names that have a tunnel or a waiting visitor, or that
// are kept for their owner, in the order of their keys.
func (t *Table) Snapshot() []NameStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]NameStatus, 0, len(t.byID)+len(t.byKey))
	for _, m := range []map[string]*slot{t.byID, t.byKey} {
		for _, s := range m {
			n := NameStatus{Key: s.key, ID: s.id, Owner: s.owner, Waiting: s.waiters.Len(), Blocked: t.blockLocked(s.name, s) != nil}
			for _, e := range s.entries {
				n.Tunnels = append(n.Tunnels, TunnelStatus{e.Tunnel, e.Service, e.Instance, e.watch.usableLocked()})
			}
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b NameStatus) int { return cmp.Compare(a.Key, b.Key) })
	return all
}

// Stats is what a table has, and what became of visitors so far.
type Stats struct {
	Names             int // those that are kept for somebody who is away among them
	Blocked           int
	Waiting           int // visitors
	MaxWaiting        int
	MaxWaitingPerName int
	Waited            uint64 // visitors that began to wait
	Full              uint64 // visitors that could not
}

// Stats returns what the table has and has seen.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Stats{
		Names:             len(t.byID) + len(t.byKey),
		Blocked:           len(t.blocked),
		Waiting:           t.held,
		MaxWaiting:        t.opts.MaxHeld,
		MaxWaitingPerName: t.opts.MaxHeldPerName,
		Waited:            t.waited,
		Full:              t.full,
	}
}
