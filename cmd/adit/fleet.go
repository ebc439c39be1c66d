package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"

	"adit/agent"
	"adit/dialect"
)

// A fleet is the agents of this process: one with all tunnels, or one for each.
type fleet struct {
	apart bool
	// options returns those of an agent with these tunnels, and what to call
	// when it is to go before the others.
	options func(tunnels []agent.Tunnel) (agent.Options, func())
	log     *slog.Logger

	running sync.WaitGroup
	agents  []*member // of the goroutine in run
}

// A member is an agent of a fleet.
type member struct {
	*agent.Agent
	tunnel agent.Tunnel // if it has one of its own
	leave  func()
	ended  atomic.Bool
}

// run keeps tunnels up, and after that those that come from updates, until ctx
// ends or an agent that it began with fails.
func (f *fleet) run(ctx context.Context, tunnels []agent.Tunnel, updates <-chan []agent.Tunnel) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer f.running.Wait()
	defer fail(nil)
	for _, group := range f.groups(tunnels) {
		if err := f.start(ctx, group, fail); err != nil {
			return err
		}
	}
	for {
		select {
		case tunnels := <-updates:
			f.update(ctx, tunnels)
		case <-ctx.Done():
			f.running.Wait()
			return failure(context.Cause(ctx))
		}
	}
}

// failure is what made the fleet end; nil if it was told to.
func failure(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if _, ok := errors.AsType[*dialect.BindError](err); ok {
		return fmt.Errorf("refused: %s", reason(err))
	}
	return err
}

// groups returns which tunnels have an agent in common.
func (f *fleet) groups(tunnels []agent.Tunnel) (groups [][]agent.Tunnel) {
	if !f.apart {
		return [][]agent.Tunnel{tunnels}
	}
	for i := range tunnels {
		groups = append(groups, tunnels[i:i+1])
	}
	return groups
}

// start starts an agent. failed is told if it ends by itself.
func (f *fleet) start(ctx context.Context, tunnels []agent.Tunnel, failed func(error)) error {
	opts, leave := f.options(tunnels)
	a, err := agent.New(opts)
	if err != nil {
		leave()
		return err
	}
	m := &member{Agent: a, tunnel: tunnels[0], leave: leave}
	f.agents = append(f.agents, m)
	f.running.Go(func() {
		err := a.Run(ctx)
		m.ended.Store(true)
		if err != nil {
			failed(err)
		}
	})
	return nil
}

// update changes what is exposed. What stays is not touched.
func (f *fleet) update(ctx context.Context, tunnels []agent.Tunnel) {
	if !f.apart {
		if err := f.agents[0].Update(tunnels); err != nil {
			f.log.Error("tunnels not changed", "err", err)
		}
		return
	}
	old := f.agents
	f.agents = nil
	for _, t := range tunnels {
		if m := take(old, t); m != nil {
			f.agents = append(f.agents, m)
			continue
		}
		err := f.start(ctx, []agent.Tunnel{t}, func(err error) {
			f.log.Error("tunnel given up", "tunnel", string(t.ID), "err", reason(err))
		})
		if err != nil {
			f.log.Error("tunnel not started", "tunnel", string(t.ID), "err", err)
		}
	}
	for _, m := range old {
		if m != nil {
			m.Drain()
			m.leave()
		}
	}
}

// take takes the agent of t out of all, and returns nil if there is none.
func take(all []*member, t agent.Tunnel) *member {
	for i, m := range all {
		if m != nil && !m.ended.Load() && m.tunnel.Upstream == t.Upstream && reflect.DeepEqual(m.tunnel, t) {
			all[i] = nil
			return m
		}
	}
	return nil
}
