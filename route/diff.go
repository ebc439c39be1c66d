package route

import (
	"fmt"
	"slices"
	"strings"
)

// A Change is how one rule differs between two sets.
type Change struct {
	Name   string   `json:"name"`
	What   string   `json:"what"` // Added, Changed or Removed
	Detail []string `json:"detail,omitempty"`
}

// Values of Change.What.
const (
	Added   = "added"
	Changed = "changed"
	Removed = "removed"
)

// Diff returns what makes one set of checked rules of another one, in the order
// of their names.
func Diff(from, to []Rule) []Change {
	var all []Change
	old := make(map[string]Rule, len(from))
	for _, r := range from {
		old[r.Name] = r
	}
	for _, r := range to {
		was, known := old[r.Name]
		delete(old, r.Name)
		switch {
		case !known:
			all = append(all, Change{r.Name, Added, describe(r)})
		case !was.equal(r):
			all = append(all, Change{r.Name, Changed, r.since(was)})
		}
	}
	for _, r := range old {
		all = append(all, Change{r.Name, Removed, describe(r)})
	}
	slices.SortFunc(all, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// describe says all of a rule.
func describe(r Rule) []string {
	lines := []string{"kind " + string(r.Kind)}
	for _, m := range r.Members {
		lines = append(lines, m.String())
	}
	if r.Sticky != "" {
		lines = append(lines, "sticky "+r.Sticky)
	}
	if r.Check != nil {
		lines = append(lines, r.Check.String())
	}
	return lines
}

// String says all of a member.
func (m Member) String() string {
	return fmt.Sprintf("member %s priority %d weight %d", m.ID, m.Priority, m.Weight)
}

// String says all of a check.
func (c *Check) String() string {
	if c == nil {
		return "no check"
	}
	what := "tcp"
	if c.HTTPPath != "" {
		what = "http " + c.HTTPPath + " status " + statusText(c.FirstStatus, c.LastStatus)
	}
	return fmt.Sprintf("check %s interval %v timeout %v healthy %d unhealthy %d", what, c.Interval, c.Timeout, c.Healthy, c.Unhealthy)
}

// since says what is different from the same rule before.
func (r Rule) since(was Rule) (lines []string) {
	turn := func(before, after string) {
		if before != after {
			lines = append(lines, before+" -> "+after)
		}
	}
	turn("kind "+string(was.Kind), "kind "+string(r.Kind))
	for _, m := range r.Members {
		i := slices.IndexFunc(was.Members, func(o Member) bool { return o.ID == m.ID })
		if i < 0 {
			lines = append(lines, "+ "+m.String())
		} else if o := was.Members[i]; o != m {
			turn(o.String(), fmt.Sprintf("priority %d weight %d", m.Priority, m.Weight))
		}
	}
	for _, o := range was.Members {
		if !slices.ContainsFunc(r.Members, func(m Member) bool { return o.ID == m.ID }) {
			lines = append(lines, "- "+o.String())
		}
	}
	turn("sticky "+orNone(was.Sticky), "sticky "+orNone(r.Sticky))
	turn(was.Check.String(), r.Check.String())
	if len(lines) == 0 {
		lines = append(lines, "members in another order")
	}
	return lines
}

func orNone(s string) string {
	if s == "" {
		return "no"
	}
	return s
}
