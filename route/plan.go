package route

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"math"
	"net/netip"
	"slices"
	"strings"

	"adit/tunnel"
)

// A Visitor is what the choice among several tunnels depends on.
type Visitor struct {
	// Addr is the visitor's address; the zero Addr if it is not known.
	Addr netip.Addr

	// Tried are tunnels that failed the visitor: others go before them.
	Tried []tunnel.Tunnel
}

// A Choice is the entry that a visitor is led to.
type Choice struct {
	Entry

	// Alive ends when the table gives the tunnel up, because it has ended, is
	// away or has fallen silent, while another one serves the same visitors. It
	// is nil if there was no other one: then there is nothing to do but wait.
	Alive context.Context
}

// errGivenUp is the cause of the end of Choice.Alive.
var errGivenUp = errors.New("route: the agent is away or silent")

// A chosen is a Choice, as the table has it.
type chosen struct {
	entry *entry
	alive context.Context
}

// choice is what a visitor of s is told of c.
func (s *slot) choice(c chosen) Choice {
	to := Choice{c.entry.Entry, c.alive}
	if s.plan != nil {
		to.TLS = s.plan.rule.Kind == TLS
	}
	return to
}

// pickLocked returns where a visitor of s goes next; its entry is nil if no
// tunnel is available.
func (t *Table) pickLocked(s *slot, who Visitor) chosen {
	var e *entry
	var spare bool
	if s.plan != nil {
		e, spare = t.pickMemberLocked(s.plan, who)
	} else {
		e, spare = s.pickLocked(who)
	}
	if e == nil || !spare {
		return chosen{entry: e}
	}
	t.mindLocked(e.watch)
	if e.watch.silent { // and so are all others
		return chosen{entry: e}
	}
	return chosen{e, e.watch.aliveLocked()}
}

// pickLocked is Table.pickLocked for a slot without a plan: each run in turn,
// and of that the tunnel with the least to do. spare says that there is another
// run too.
func (s *slot) pickLocked(who Visitor) (best *entry, spare bool) {
	n := len(s.turns)
	last, next := 0, 0
	for i := range n {
		at := s.next + i
		if at >= n {
			at %= n
		}
		e := s.turns[at]
		if e.Run != "" {
			e = s.leastLoadedLocked(e, who)
		} else if !e.watch.usableLocked() {
			e = nil
		}
		if e == nil {
			continue
		}
		r := e.rankLocked(who)
		spare = spare || best != nil && e.Tunnel != best.Tunnel
		if best == nil || r < last {
			best, last, next = e, r, at+1
		}
		if last == 0 && spare {
			break
		}
	}
	s.next = next
	return best, spare
}

// rankLocked is 0 for an entry that has failed nobody, and otherwise how far it
// comes behind others.
func (e *entry) rankLocked(who Visitor) (r int) {
	if e.watch.silent {
		r = 1
	}
	if slices.Contains(who.Tried, e.Tunnel) {
		r += 2
	}
	return r
}

// leastLoadedLocked returns the entry of first's run that is available and has
// the least to do, in turn if that is several, or nil.
func (s *slot) leastLoadedLocked(first *entry, who Visitor) (best *entry) {
	s.spin++
	for i := range s.entries {
		e := s.entries[(s.spin+i)%len(s.entries)]
		if e.isWith(first) && e.watch.usableLocked() && (best == nil || e.lighterLocked(best, who)) {
			best = e
		}
	}
	return best
}

// lighterLocked reports whether a visitor had better go to e than to o, another
// tunnel of the same run.
func (e *entry) lighterLocked(o *entry, who Visitor) bool {
	if a, b := e.rankLocked(who), o.rankLocked(who); a != b {
		return a < b
	}
	streams, stalled := e.watch.loadLocked()
	others, otherStalled := o.watch.loadLocked()
	if stalled != otherStalled {
		return otherStalled
	}
	return streams < others
}

// A plan is a rule in the table. The table's mutex guards it.
type plan struct {
	rule    Rule
	members []*member
	checks  map[*entry]*checker // nil without Rule.Check
}

// A member is a Member with the state of its choice.
type member struct {
	Member
	current int // of the smooth weighted choice
	next    int // of its entries, in turn
	picked  uint64
}

func newPlan(r Rule) *plan {
	p := &plan{rule: r}
	for _, m := range r.Members {
		p.members = append(p.members, &member{Member: m})
	}
	if r.Check != nil {
		p.checks = make(map[*entry]*checker)
	}
	return p
}

// How well an entry suits a rule.
const (
	unfit  = iota
	usable // it was bound for other visitors, but streams to it carry any bytes
	exact
)

// fits says how well an entry suits. Rules of an agent for the visitors of HTTP
// cannot be kept for others, so that what has some is not for them.
func (p *plan) fits(e *entry) int {
	plain := e.isHTTP() && !e.TLS && !e.HTTP2 && e.Policy == nil
	switch p.rule.Kind {
	case HTTP:
		if e.isHTTP() && !e.TLS {
			return exact
		}
	case TLS:
		switch {
		case e.isHTTP() && e.TLS:
			return exact
		case e.Port != 0 && !e.UDP || plain:
			return usable
		}
	case TCP:
		switch {
		case e.Port != 0 && !e.UDP:
			return exact
		case e.isHTTP() && e.TLS || plain:
			return usable
		}
	case UDP:
		if e.UDP {
			return exact
		}
	}
	return unfit
}

// entriesLocked calls f with the entries of a member that suit best.
func (t *Table) entriesLocked(p *plan, id tunnel.ID, f func(*entry)) {
	s := t.byID[string(id)]
	if s == nil || t.blocksLocked(string(id)) {
		return
	}
	best := unfit
	for _, e := range s.holders {
		best = max(best, p.fits(e))
	}
	if best == unfit {
		return
	}
	for _, e := range s.holders {
		if !e.removed && p.fits(e) == best {
			f(e)
		}
	}
}

// A candidate is an entry that a visitor may go to.
type candidate struct {
	member *member
	entry  *entry
	rank   int // the lowest goes first
}

// pickMemberLocked is pickLocked for a plan.
func (t *Table) pickMemberLocked(p *plan, who Visitor) (e *entry, spare bool) {
	all, spare := t.candidatesLocked(p, who)
	defer clear(all)
	if len(all) == 0 {
		return nil, false
	}
	at := share
	if p.rule.Sticky == Source && who.Addr.IsValid() {
		at = func(all []candidate) candidate { return stay(all, who.Addr) }
	}
	c := at(all)
	c.member.picked++
	return c.entry, spare
}

// candidatesLocked returns the entries that are next in order, which those of
// one member follow each other in. They are good until the next call.
func (t *Table) candidatesLocked(p *plan, who Visitor) (all []candidate, spare bool) {
	all = t.candidates[:0]
	for _, m := range p.members {
		t.entriesLocked(p, m.ID, func(e *entry) {
			if !e.watch.usableLocked() {
				return
			}
			c := candidate{m, e, p.rankLocked(m, e, who)}
			if i := slices.IndexFunc(all, func(o candidate) bool { return o.member == m && o.entry.isWith(e) }); i >= 0 {
				if o := all[i]; c.rank < o.rank || c.rank == o.rank && e.lighterLocked(o.entry, who) {
					all[i] = c // one of a run is enough
				}
				return
			}
			all = append(all, c)
			first := all[0].entry
			spare = spare || e.Tunnel != first.Tunnel && !e.isWith(first)
		})
	}
	t.candidates = all
	best := math.MaxInt
	for _, c := range all {
		best = min(best, c.rank)
	}
	return slices.DeleteFunc(all, func(c candidate) bool { return c.rank > best }), spare
}

// rankLocked orders entries: those that have not failed the visitor yet, then by
// health, then by priority. The unhealthy are asked too when there is nobody
// else: a check that is wrong must not take a service down that is well.
func (p *plan) rankLocked(m *member, e *entry, who Visitor) int {
	r := m.Priority
	switch c := p.checks[e]; {
	case e.watch.silent:
		r += 3 << 16
	case c != nil:
		r += int(c.health) << 16
	}
	if slices.Contains(who.Tried, e.Tunnel) {
		r += 1 << 20
	}
	return r
}

// share takes each member as often as its weight says, evenly spread, and each
// of its entries in turn.
func share(all []candidate) candidate {
	total := 0
	var best *member
	for i, c := range all {
		if i > 0 && all[i-1].member == c.member {
			continue // a member's entries are in a row
		}
		c.member.current += c.member.Weight
		total += c.member.Weight
		if best == nil || c.member.current > best.current {
			best = c.member
		}
	}
	best.current -= total
	from := slices.IndexFunc(all, func(c candidate) bool { return c.member == best })
	n := 0
	for _, c := range all[from:] {
		if c.member == best {
			n++
		}
	}
	best.next = (best.next + 1) % n
	return all[from+best.next]
}

// stay takes the same entry for an address each time, as long as it is there:
// when one goes or comes, only its own visitors move.
func stay(all []candidate, addr netip.Addr) candidate {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		p, _ := addr.Prefix(64) // of one household, which changes the rest as it likes
		addr = p.Addr()
	}
	var best candidate
	top := math.Inf(-1)
	for _, c := range all {
		if s := score(addr, string(c.member.ID), float64(c.member.Weight)); best.entry == nil || s > top {
			best, top = c, s
		}
	}
	top = math.Inf(-1)
	of := best.member
	for _, c := range all {
		if c.member != of {
			continue
		}
		if s := score(addr, c.entry.Instance, 1); s > top {
			best, top = c, s
		}
	}
	return best
}

// score is that of weighted rendezvous hashing. It is the same on each server,
// and after a restart.
func score(addr netip.Addr, name string, weight float64) float64 {
	h := fnv.New64a()
	b := addr.As16()
	h.Write(b[:])
	h.Write([]byte(name))
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9 // neighbours differ in all bits
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	u := (float64(x>>11) + 0.5) / (1 << 53)
	return -weight / math.Log(u)
}

// ruleLocked returns the slot of the rule for a name, or nil; id is the name's
// ID, if it has one.
func (t *Table) ruleLocked(name, id string) *slot {
	switch {
	case len(t.rules) == 0, id == "" && !strings.ContainsAny(name, ".:"):
		return nil
	case strings.ContainsAny(id, ".:"):
		name = "/" + id
	case id != "":
		name = id
	}
	return t.rules[name]
}

// SetRules makes rules, which CheckRules has returned, those of the table,
// instead of the ones before. Visitors who have got a tunnel stay with it, and
// those who wait find their way anew.
func (t *Table) SetRules(rules []Rule) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	old := t.rules
	t.rules = make(map[string]*slot, len(rules))
	t.ledBy = make(map[tunnel.ID][]*slot)
	var woken []*waiter
	for _, r := range rules {
		s := old[r.Name]
		delete(old, r.Name)
		switch {
		case s == nil:
			s = &slot{name: r.Name, key: keyOf(r.Name), plan: newPlan(r)}
			in, name, _ := t.placeLocked(s.key)
			if bound := in[name]; bound != nil {
				woken = append(woken, t.turnAwayLocked(bound, errAgain)...)
			}
		case !s.plan.rule.equal(r):
			woken = append(woken, t.turnAwayLocked(s, errAgain)...)
			s.plan = t.replanLocked(s.plan, r)
		}
		t.rules[r.Name] = s
		for _, m := range r.Members {
			t.ledBy[m.ID] = append(t.ledBy[m.ID], s)
		}
	}
	for _, s := range old {
		woken = append(woken, t.turnAwayLocked(s, errAgain)...)
		s.plan.stopLocked()
	}
	for _, s := range t.rules {
		t.checkLocked(s)
	}
	t.mu.Unlock()
	signal(woken)
}

// replanLocked returns the plan of a rule that was another one before. What is
// known of upstreams stays known, if they are asked in the same way.
func (t *Table) replanLocked(was *plan, r Rule) *plan {
	p := newPlan(r)
	for _, m := range p.members {
		if i := slices.IndexFunc(was.members, func(o *member) bool { return o.ID == m.ID }); i >= 0 {
			m.next, m.picked = was.members[i].next, was.members[i].picked
		}
	}
	if r.Kind == was.rule.Kind && r.Check != nil && r.Check.equal(was.rule.Check) {
		for e, c := range was.checks {
			if slices.ContainsFunc(r.Members, func(m Member) bool { return m.ID == e.ID }) {
				p.checks[e], c.plan = c, p
				delete(was.checks, e)
			}
		}
	}
	was.stopLocked()
	return p
}

// keyOf returns a rule's name as Route takes it.
func keyOf(name string) string {
	if strings.HasPrefix(name, ":") || strings.HasPrefix(name, "/") || strings.Contains(name, ".") {
		return name
	}
	return "/" + name
}

// Rules returns the rules of the table, in the order of their names.
func (t *Table) Rules() []Rule {
	t.mu.Lock()
	defer t.mu.Unlock()
	rules := make([]Rule, 0, len(t.rules))
	for _, s := range t.rules {
		rules = append(rules, s.plan.rule)
	}
	slices.SortFunc(rules, func(a, b Rule) int { return cmp.Compare(a.Name, b.Name) })
	return rules
}
