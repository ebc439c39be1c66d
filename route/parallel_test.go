package route

import (
	"context"
	"testing"

	"adit/tunnel"
)

// A parallelTunnel is one of several of an agent.
type parallelTunnel struct {
	tunnel.Tunnel
	name    string
	streams int
	stalled bool
	done    chan struct{}
}

func (p *parallelTunnel) Done() <-chan struct{}   { return p.done }
func (p *parallelTunnel) Close() error            { return nil }
func (p *parallelTunnel) Parallel() (string, int) { return "", 0 }
func (p *parallelTunnel) Load() (int, bool)       { return p.streams, p.stalled }
func newParallel(name string) *parallelTunnel {
	return &parallelTunnel{name: name, done: make(chan struct{})}
}

// Visitors go to the agents of a name in turn, and to the tunnel of one that has
// the least to do.
func TestParallel(t *testing.T) {
	t.Parallel()
	table := NewTable(Options{Hold: -1})
	defer table.Close()
	a1, a2, a3, b := newParallel("a1"), newParallel("a2"), newParallel("a3"), newParallel("b")
	add := func(p *parallelTunnel, instance, run string, n int) func() {
		t.Helper()
		remove, err := table.Add(Entry{ID: "web", Tunnel: p, Owner: "o", Instance: instance, Run: run, Number: n})
		if err != nil {
			t.Fatal(err)
		}
		return remove
	}
	removeA1 := add(a1, "a", "r", 1)
	add(a2, "a", "r", 2)
	add(b, "b", "", 0)
	add(a3, "a", "r", 3)
	count := func() map[string]int {
		t.Helper()
		got := make(map[string]int)
		for range 12 {
			e, err := table.Route(context.Background(), "/web")
			if err != nil {
				t.Fatal(err)
			}
			p := e.Tunnel.(*parallelTunnel)
			got[p.name]++
			p.streams++
		}
		return got
	}
	want := func(what string, want map[string]int) {
		t.Helper()
		got := count()
		for _, name := range []string{"a1", "a2", "a3", "b"} {
			if got[name] != want[name] {
				t.Errorf("%s: visitors went to %v, want %v", what, got, want)
				return
			}
		}
	}
	want("all alike", map[string]int{"a1": 2, "a2": 2, "a3": 2, "b": 6})
	a2.streams += 100
	want("one busy", map[string]int{"a1": 3, "a3": 3, "b": 6})
	a1.stalled = true
	want("one stalled", map[string]int{"a3": 6, "b": 6})
	removeA1()
	want("the first gone", map[string]int{"a3": 6, "b": 6})
	a2.stalled, a3.stalled = true, true
	if got := count(); got["b"] != 6 {
		t.Errorf("all stalled: visitors went to %v, want half of them to b", got)
	}

	// One with the same number takes the place of the old, and another run that
	// of all.
	c2 := newParallel("c2")
	add(c2, "a", "r", 2)
	if got := count(); got["a2"] != 0 || got["a3"]+got["c2"] != 6 {
		t.Errorf("after a replacement visitors went to %v, want none to a2", got)
	}
	d := newParallel("d")
	add(d, "a", "s", 1)
	if got := count(); got["d"] != 6 || got["b"] != 6 {
		t.Errorf("after another run came visitors went to %v, want half of them to it", got)
	}
}
