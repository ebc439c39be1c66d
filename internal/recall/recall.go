// Package recall remembers, for each network that a machine has been in, which
// of several ways to do something worked there, in a file.
//
//	m, err := recall.Open(path, recall.Options{})
//	network := recall.Network("tunnel.example.com:443", proxy)
//	for _, way := range m.Order(network, ways) {
//		...
//		m.Worked(network, way, took)
//	}
package recall

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	maxNetworks = 64
	maxWays     = 16
	maxFile     = 256 << 10

	// patience is how many failures in a row a way is allowed that has worked.
	patience = 3

	// fresh is how long it counts that a way has worked.
	fresh = 24 * time.Hour

	maxAvoid = 6 * time.Hour
)

// Options configures a Memory. The zero value is ready to use.
type Options struct {
	// Avoid is how long a way is put last that does not work; it doubles each
	// time, up to 6 hours. 0 means 10 min.
	Avoid time.Duration
}

// A Memory is what has been remembered. Its methods are safe for concurrent
// use. Several processes may have the same file; the one that writes last has
// its way.
type Memory struct {
	path string
	opts Options

	mu       sync.Mutex // guards the field below
	networks map[string]*network
}

type network struct {
	Seen time.Time       `json:"seen"`
	Ways map[string]*way `json:"ways"`
}

// A way is what is known of one.
type way struct {
	Worked   time.Time     `json:"worked,omitzero"`    // last
	Took     time.Duration `json:"took,omitempty"`     // then, in ns
	Failures int           `json:"failures,omitempty"` // since it has worked well
	Avoid    time.Time     `json:"avoid,omitzero"`     // until then
}

// Open returns what is in the file, which need not be there; with an empty path
// nothing is written. The Memory can be used, empty, also if there is an error.
func Open(path string, opts Options) (*Memory, error) {
	if opts.Avoid == 0 {
		opts.Avoid = 10 * time.Minute
	}
	m := &Memory{path: path, opts: opts, networks: make(map[string]*network)}
	if path == "" {
		return m, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s has %d bytes: at most %d are read", path, len(b), maxFile)
	}
	if err == nil {
		err = json.Unmarshal(b, &m.networks)
	}
	if err != nil {
		m.networks = make(map[string]*network)
		return m, fmt.Errorf("what worked before is not known: %w", err)
	}
	m.clean()
	return m, nil
}

// clean drops what is not as this package writes it.
func (m *Memory) clean() {
	maps.DeleteFunc(m.networks, func(_ string, n *network) bool { return n == nil || len(n.Ways) > maxWays })
	latest := time.Now().Add(maxAvoid)
	for _, n := range m.networks {
		maps.DeleteFunc(n.Ways, func(_ string, w *way) bool {
			return w == nil || w.Failures < 0 || w.Failures > 1<<20 || w.Avoid.After(latest)
		})
		if n.Ways == nil {
			n.Ways = make(map[string]*way)
		}
	}
	m.boundLocked()
}

// boundLocked forgets the networks that were not seen for longest.
func (m *Memory) boundLocked() {
	for len(m.networks) > maxNetworks {
		oldest := ""
		for name, n := range m.networks {
			if oldest == "" || n.Seen.Before(m.networks[oldest].Seen) {
				oldest = name
			}
		}
		delete(m.networks, oldest)
	}
}

func (m *Memory) wayLocked(network, name string) *way {
	n := m.networks[network]
	if n == nil || n.Ways[name] == nil {
		return &way{}
	}
	return n.Ways[name]
}

// Order returns the ways, which are given best first, in the order in which to
// try them: those that do not work are last.
func (m *Memory) Order(network string, ways []string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	var good, bad []string
	for _, name := range ways {
		if m.wayLocked(network, name).Avoid.After(now) {
			bad = append(bad, name)
		} else {
			good = append(good, name)
		}
	}
	return append(good, bad...)
}

// Avoided returns until when the way is to be put last; zero if it is not.
func (m *Memory) Avoided(network, name string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if until := m.wayLocked(network, name).Avoid; until.After(time.Now()) {
		return until
	}
	return time.Time{}
}

// Trusted reports whether the way has worked lately, and nothing was wrong with
// it since.
func (m *Memory) Trusted(network, name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.wayLocked(network, name)
	return w.Failures == 0 && !w.Worked.IsZero() && time.Since(w.Worked) < fresh
}

// Took returns how long the way took when it last worked; zero if it has not.
func (m *Memory) Took(network, name string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wayLocked(network, name).Took
}

// Worked takes note that a way has worked, which took so long.
func (m *Memory) Worked(network, name string, took time.Duration) error {
	return m.change(network, name, func(w *way) {
		w.Worked, w.Took = time.Now(), took
	})
}

// Held takes note that what began with Worked has lasted.
func (m *Memory) Held(network, name string) error {
	return m.change(network, name, func(w *way) {
		w.Worked, w.Failures, w.Avoid = time.Now(), 0, time.Time{}
	})
}

// Failed takes note that a way has not worked though others do.
func (m *Memory) Failed(network, name string) error {
	return m.change(network, name, func(w *way) {
		w.Failures++
		over := w.Failures
		if !w.Worked.IsZero() && time.Since(w.Worked) < fresh {
			over -= patience - 1
		}
		if over > 0 {
			w.Avoid = time.Now().Add(min(m.opts.Avoid<<min(over-1, 10), maxAvoid))
		}
	})
}

// change changes what is known of a way, and writes the file. The error is why
// that could not be done.
func (m *Memory) change(net, name string, f func(*way)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.networks[net]
	if n == nil {
		n = &network{Ways: make(map[string]*way)}
		m.networks[net] = n
	}
	n.Seen = time.Now()
	if n.Ways[name] == nil {
		if len(n.Ways) >= maxWays {
			return nil
		}
		n.Ways[name] = &way{}
	}
	f(n.Ways[name])
	m.boundLocked()
	if m.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(m.networks, "", "\t")
	if err != nil {
		return err
	}
	return replace(m.path, b)
}

// replace writes a file that only its owner can read.
func replace(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".carriers-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// Networks returns the names of all networks, for tests.
func (m *Memory) Networks() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.networks))
}
