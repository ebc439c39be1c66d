package recall_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/recall"
)

var ways = []string{"a", "b", "c"}

func TestOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, err := recall.Open("", recall.Options{})
		if err != nil {
			t.Fatal(err)
		}
		want := func(when string, want ...string) {
			t.Helper()
			if got := m.Order("home", ways); !slices.Equal(got, want) {
				t.Errorf("%s: the order is %v, want %v", when, got, want)
			}
		}
		want("at first", "a", "b", "c")
		m.Failed("home", "a")
		want("after a failure of what never worked", "b", "c", "a")
		if got := m.Order("elsewhere", ways); !slices.Equal(got, ways) {
			t.Errorf("in another network: the order is %v, want %v", got, ways)
		}
		time.Sleep(11 * time.Minute)
		want("a while later", "a", "b", "c")
		m.Failed("home", "a")
		time.Sleep(11 * time.Minute)
		want("the second time it takes longer", "b", "c", "a")
		time.Sleep(10 * time.Minute)
		want("but not for ever", "a", "b", "c")

		m.Worked("home", "b", time.Second)
		if !m.Trusted("home", "b") || m.Took("home", "b") != time.Second {
			t.Error("what worked is not trusted")
		}
		m.Failed("home", "b")
		m.Failed("home", "b")
		want("after two failures of what worked", "a", "b", "c")
		if m.Trusted("home", "b") {
			t.Error("what failed is trusted")
		}
		m.Failed("home", "b")
		want("after the third", "a", "c", "b")
		m.Held("home", "b")
		want("after it has lasted", "a", "b", "c")
		if !m.Avoided("home", "b").IsZero() {
			t.Error("it is avoided all the same")
		}
	})
}

func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state", "carriers.json")
	m, err := recall.Open(path, recall.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if err := m.Failed(fmt.Sprint("network ", i), "a"); err != nil {
			t.Fatal(err)
		}
	}
	m, err = recall.Open(path, recall.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Order("network 199", ways); got[0] != "b" {
		t.Errorf("the order is %v after the file was read again, want b first", got)
	}
	if n := len(m.Networks()); n != 64 {
		t.Errorf("%d networks are remembered, want 64", n)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("there are %d files, want one", len(entries))
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"x":{"seen":"2026-01-02T15:04:05Z","ways":{"a":{"failures":3,"avoid":"2026-01-02T15:04:05Z"}}}}`))
	f.Add([]byte(`{"x":null,"y":{"ways":{"a":null}}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "carriers.json")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		m, _ := recall.Open(path, recall.Options{})
		for _, network := range append(m.Networks(), "x") {
			if got := m.Order(network, ways); len(got) != len(ways) {
				t.Errorf("the order is %v", got)
			}
			m.Failed(network, "a")
			m.Worked(network, "a", 1)
		}
	})
}
