package main

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
)

// tally is what one worker (or all of them, merged) has seen. Whatever is not
// a complete, verified answer lands in fails.
type tally struct {
	ok      int64
	bytes   int64
	stale   int64 // kept-alive connections that the far end had closed meanwhile; retried, not failures
	lat     []int64
	fails   map[string]int
	samples []string
}

func (t *tally) fail(err error) {
	if t.fails == nil {
		t.fails = map[string]int{}
	}
	k := classify(err)
	t.fails[k]++
	if len(t.samples) < 3 {
		t.samples = append(t.samples, err.Error())
	}
}

func (t *tally) merge(o *tally) {
	t.ok += o.ok
	t.bytes += o.bytes
	t.stale += o.stale
	t.lat = append(t.lat, o.lat...)
	for k, v := range o.fails {
		if t.fails == nil {
			t.fails = map[string]int{}
		}
		t.fails[k] += v
	}
	for _, s := range o.samples {
		if len(t.samples) < 3 {
			t.samples = append(t.samples, s)
		}
	}
}

func (t *tally) failed() int {
	n := 0
	for _, v := range t.fails {
		n += v
	}
	return n
}

type kindErr struct {
	kind string
	msg  string
}

func (e *kindErr) Error() string { return e.kind + ": " + e.msg }

func classify(err error) string {
	var k *kindErr
	if errors.As(err, &k) {
		return k.kind
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "timeout"
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return "timeout"
	}
	var oe *net.OpError
	if errors.As(err, &oe) && oe.Op == "dial" {
		return "dial"
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "eof"
	}
	return "io"
}

// workers runs f in n goroutines and merges their tallies.
func workers(n int, f func(i int, t *tally)) tally {
	var wg sync.WaitGroup
	ts := make([]tally, n)
	for i := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			f(i, &ts[i])
		}()
	}
	wg.Wait()
	var all tally
	for i := range ts {
		all.merge(&ts[i])
	}
	sortLat(all.lat)
	return all
}
