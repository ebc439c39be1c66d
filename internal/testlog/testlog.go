// Package testlog keeps what is logged or printed, for tests that wait for
// something in it.
//
//	var log testlog.Log
//	logger := slog.New(slog.NewTextHandler(&log, nil))
//	...
//	log.Await(t, "carrier lost")
package testlog

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds each wait.
const patience = 20 * time.Second

// A Log keeps all that is written to it. Its zero value is empty. Its methods are
// safe for concurrent use.
type Log struct {
	mu      sync.Mutex // guards the fields below
	text    bytes.Buffer
	changed chan struct{} // closed at the next Write; nil if nobody waits
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	return l.text.Write(p)
}

// String returns all of it.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Read returns all of it, and a channel that is closed when there is more.
func (l *Log) Read() (text string, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.text.String(), l.changed
}

// Count returns how often text stands in it.
func (l *Log) Count(text string) int { return strings.Count(l.String(), text) }

// Await waits until text stands in it.
func (l *Log) Await(t testing.TB, text string) {
	t.Helper()
	l.Match(t, regexp.QuoteMeta(text))
}

// Match waits until the regular expression re matches, and returns what its last
// group has matched, or the whole of it if it has no group.
func (l *Log) Match(t testing.TB, re string) string {
	t.Helper()
	want := regexp.MustCompile(re)
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		text, changed := l.Read()
		if m := want.FindStringSubmatch(text); m != nil {
			return m[len(m)-1]
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatalf("no %q after %v in:\n%s", re, patience, text)
		}
	}
}
