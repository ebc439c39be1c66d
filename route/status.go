package route

import (
	"cmp"
	"slices"
	"strings"

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

	// Of a rule alone. Its Tunnels have at least one element for each member.
	Kind   Kind
	Sticky string
}

// A TunnelStatus is a tunnel of a name at one moment.
type TunnelStatus struct {
	Tunnel    tunnel.Tunnel
	Service   string
	Instance  string
	Available bool

	// Of a rule's member alone. Its Tunnel is nil if nobody has bound the ID.
	ID               tunnel.ID
	Priority, Weight int
	Health           string // healthy, unknown, unhealthy, silent or away
	Problem          string // why the last check failed
}

// Snapshot returns all names that have a tunnel or a waiting visitor, or that
// are kept for their owner, in the order of their keys.
func (t *Table) Snapshot() []NameStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]NameStatus, 0, len(t.byID)+len(t.byKey))
	for _, m := range []map[string]*slot{t.byID, t.byKey} {
		for _, s := range m {
			if t.ruled(s) {
				continue // visitors find the rule
			}
			n := NameStatus{Key: s.key, ID: s.id, Owner: s.owner, Waiting: s.waiters.Len(), Blocked: t.blockLocked(s.name, s) != nil}
			for _, e := range s.entries {
				n.Tunnels = append(n.Tunnels, TunnelStatus{Tunnel: e.Tunnel, Service: e.Service, Instance: e.Instance, Available: e.watch.usableLocked()})
			}
			all = append(all, n)
		}
	}
	for _, s := range t.rules {
		all = append(all, t.ruleStatusLocked(s))
	}
	slices.SortFunc(all, func(a, b NameStatus) int { return cmp.Compare(a.Key, b.Key) })
	return all
}

// ruled reports whether a rule stands before a slot.
func (t *Table) ruled(s *slot) bool {
	_, name, id := t.placeLocked(s.key)
	return t.ruleLocked(name, id) != nil
}

func (t *Table) ruleStatusLocked(s *slot) NameStatus {
	p := s.plan
	n := NameStatus{Key: s.key, Waiting: s.waiters.Len(), Blocked: t.blockLocked(strings.TrimPrefix(s.name, "/"), s) != nil, Kind: p.rule.Kind, Sticky: p.rule.Sticky}
	for _, m := range p.members {
		of := TunnelStatus{ID: m.ID, Priority: m.Priority, Weight: m.Weight, Health: "away"}
		found := false
		t.entriesLocked(p, m.ID, func(e *entry) {
			found = true
			st := of
			st.Tunnel, st.Service, st.Instance, st.Available = e.Tunnel, e.Service, e.Instance, e.watch.usableLocked()
			st.Health, st.Problem = p.healthLocked(e)
			n.Tunnels = append(n.Tunnels, st)
		})
		if !found {
			n.Tunnels = append(n.Tunnels, of)
		}
	}
	return n
}

// healthLocked says how an entry is, in a word, and what its last check found.
func (p *plan) healthLocked(e *entry) (health, problem string) {
	c := p.checks[e]
	if c != nil && c.err != nil {
		problem = c.err.Error()
	}
	switch {
	case !e.watch.usableLocked():
		return "away", problem
	case e.watch.silent:
		return "silent", problem
	case c != nil:
		return c.health.String(), problem
	}
	return Healthy.String(), ""
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
	Rules             int
	MaxRules          int
	GivenUp           uint64 // times that a silent tunnel was given up
	Members           []MemberStats
}

// MemberStats is what a table has of one member of a rule.
type MemberStats struct {
	Rule             string
	ID               tunnel.ID
	Priority, Weight int
	Healthy          bool   // visitors would go there, if nothing of a higher priority is healthy
	Picked           uint64 // visitors that were led there
}

// Stats returns what the table has and has seen.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := Stats{
		Names:             len(t.byID) + len(t.byKey),
		Blocked:           len(t.blocked),
		Waiting:           t.held,
		MaxWaiting:        t.opts.MaxHeld,
		MaxWaitingPerName: t.opts.MaxHeldPerName,
		Waited:            t.waited,
		Full:              t.full,
		Rules:             len(t.rules),
		MaxRules:          MaxRules,
		GivenUp:           t.givenUp,
	}
	for name, s := range t.rules {
		for _, m := range s.plan.members {
			ms := MemberStats{Rule: name, ID: m.ID, Priority: m.Priority, Weight: m.Weight, Picked: m.picked}
			t.entriesLocked(s.plan, m.ID, func(e *entry) {
				h, _ := s.plan.healthLocked(e)
				ms.Healthy = ms.Healthy || h == Healthy.String()
			})
			st.Members = append(st.Members, ms)
		}
	}
	return st
}
