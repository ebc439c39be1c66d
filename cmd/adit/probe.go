package main

import (
	"context"
	"sync"
	"time"

	"adit/agent"
	"adit/dialect"
	"adit/internal/screen"
)

const (
	probeEvery   = 3 * time.Second
	probeTimeout = 5 * time.Second
	probesAtOnce = 4
)

// probe finds out whether HTTP upstreams answer, where visitors have not just
// shown it, until ctx ends. It leaves others alone: a connection without a word is an
// event to them, and ends what takes only one.
func (b *board) probe(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		turns := make(chan struct{}, probesAtOnce)
		var wg sync.WaitGroup
		for _, u := range b.unproven() {
			turns <- struct{}{}
			wg.Go(func() {
				defer func() { <-turns }()
				b.probeOne(ctx, u)
			})
		}
		wg.Wait()
		select {
		case <-tick.C:
		case <-b.fresh:
		case <-ctx.Done():
			return
		}
	}
}

func (b *board) probeOne(ctx context.Context, u *agent.Upstream) {
	limited, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	h := health{state: screen.Up}
	if err := u.Check(limited); err != nil {
		h = health{state: screen.Down, problem: cause(err)}
	}
	if ctx.Err() == nil {
		b.change(func() { b.health[u] = h })
	}
}

// unproven returns the HTTP upstreams that are not known to answer.
func (b *board) unproven() (upstreams []*agent.Upstream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := make(map[*agent.Upstream]bool)
	for _, s := range b.agents {
		for _, t := range s.tunnels {
			h := b.health[t.Upstream]
			if t.Kind == dialect.HTTP && !t.Upstream.InProcess() && (h.state != screen.Up || h.doubt) && !seen[t.Upstream] {
				seen[t.Upstream] = true
				upstreams = append(upstreams, t.Upstream)
			}
		}
	}
	return upstreams
}
