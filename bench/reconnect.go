package main

import (
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// runReconnect plays a constant rate of requests, kills one side and starts it
// again at once.
func runReconnect(in *instance, v string, o *opts) *sample {
	s := newSample()
	if in.client == nil && v == "kill-client" || in.server == nil {
		s.notes = append(s.notes, "nothing to kill")
		return s
	}
	var mu sync.Mutex
	var all tally
	var done []time.Time
	pool := make(chan *hconn, 1024)
	one := func() {
		var err error
		if in.sub.Kind == "http" {
			var h *hconn
			select {
			case h = <-pool:
			default:
			}
			if h, _, err = getOver(h, in.target, 128, 3*time.Second); h != nil {
				select {
				case pool <- h:
				default:
					h.c.Close()
				}
			}
		} else {
			err = probeTCP(in.target, 3*time.Second)
		}
		mu.Lock()
		if err != nil {
			all.fail(err)
		} else {
			all.ok++
			done = append(done, time.Now())
		}
		mu.Unlock()
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var sent int64
	wg.Add(1)
	go func() {
		defer wg.Done()
		t0 := time.Now()
		for i := 0; ; i++ {
			due := t0.Add(time.Duration(i) * time.Second / time.Duration(o.rate))
			select {
			case <-stop:
				return
			case <-time.After(time.Until(due)):
			}
			atomic.AddInt64(&sent, 1)
			wg.Add(1)
			go func() { defer wg.Done(); one() }()
		}
	}()
	time.Sleep(3 * time.Second)
	mu.Lock()
	before := all.failed()
	mu.Unlock()
	killed := time.Now()
	var err error
	if v == "kill-client" {
		in.client.kill9()
		err = in.startClient()
	} else {
		in.server.kill9()
		err = in.startServer()
	}
	if err != nil {
		s.samples = append(s.samples, "restart: "+err.Error())
		s.fails["restart"]++
	}
	restarted := time.Now()
	wg.Go(func() { in.runSetup(o.gapMax) }) // one that never succeeds shows as requests that fail
	respawned := 0
	var ended time.Time
	for time.Since(killed) < o.gapMax {
		time.Sleep(50 * time.Millisecond)
		if v == "kill-server" && in.client != nil && !in.client.alive() {
			if ended.IsZero() {
				ended = time.Now()
			} else if time.Since(ended) > time.Second {
				live.remove(in.client)
				if in.startClient() == nil {
					respawned++
				}
				ended = time.Time{}
			}
		}
		mu.Lock()
		n := len(done)
		// three seconds at (nearly) full rate end the wait
		healthy := n > o.rate*3 && time.Since(killed) > 4*time.Second && time.Since(done[n-o.rate*29/10]) < 3*time.Second
		mu.Unlock()
		if healthy {
			break
		}
	}
	close(stop)
	end := time.Now()
	wg.Wait()
	for len(pool) > 0 {
		(<-pool).c.Close()
	}
	last := killed
	var gap time.Duration
	recovered := time.Duration(-1)
	for _, d := range sortTimes(done) {
		if d.Before(killed) {
			continue
		}
		if d.After(end) {
			break
		}
		if g := d.Sub(last); g > gap {
			gap = g
		}
		last = d
	}
	if g := end.Sub(last); g > gap {
		gap = g
	}
	for _, d := range done {
		if d.After(restarted) {
			recovered = d.Sub(killed)
			break
		}
	}
	if recovered < 0 {
		s.notes = append(s.notes, fmt.Sprintf("did not come back within %s", o.gapMax))
		s.m["not_back"] = 1
	}
	s.m["gap_ms"] = gap.Seconds() * 1e3
	s.m["restart_took_ms"] = restarted.Sub(killed).Seconds() * 1e3
	s.m["requests"] = float64(sent)
	s.m["failed"] = float64(all.failed() - before)
	s.m["failed_before"] = float64(before)
	s.m["fail_kinds"] = float64(len(all.fails))
	if respawned > 0 {
		s.notes = append(s.notes, "the client ended and was started again by the harness after 1 s")
	}
	var kinds []string
	for k, n := range all.fails {
		kinds = append(kinds, fmt.Sprintf("%s %d", k, n))
		if k == "wrong-bytes" || k == "wrong-id" || k == "short" {
			s.fails[k] += n
		}
	}
	sort.Strings(kinds)
	if len(kinds) > 0 {
		s.notes = append(s.notes, fmt.Sprint(kinds))
	}
	return s
}
