package main

import (
	"errors"

	"adit/admin"
	"adit/dialect/native"
	"adit/internal/screen"
	"adit/metrics"
	"adit/session"
)

// boardAdmin is a board as operators see it. Its methods are safe for
// concurrent use.
type boardAdmin struct {
	*board
	budget *session.Budget
}

var (
	_ admin.Agent         = boardAdmin{}
	_ metrics.AgentSource = boardAdmin{}
)

// Ready implements admin.Agent: all agents of the process are connected.
func (b boardAdmin) Ready() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ending != "" {
		return errors.New(string(b.ending))
	}
	if s := b.worstLocked(); s == nil || s.phase != screen.Connected {
		return errors.New("not connected")
	}
	return nil
}

// AgentStatus implements admin.Agent.
func (b boardAdmin) AgentStatus() admin.AgentStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := admin.AgentStatus{
		Version: versionString(),
		Started: b.started,
		Server:  b.server,
		Phase:   string(screen.Connecting),
		Tunnels: []admin.AgentTunnel{},
	}
	if s := b.worstLocked(); s != nil {
		st.Phase = string(s.phase)
		if s.phase == screen.Connected {
			st.Carrier = string(s.carrier)
		}
		if s.err != nil {
			st.Error = reason(s.err)
		}
	}
	if b.ending != "" {
		st.Phase = string(b.ending)
	}
	for _, s := range b.agents {
		for i, t := range s.tunnels {
			at := admin.AgentTunnel{ID: string(t.ID), Kind: string(t.Kind), Upstream: t.Upstream.String(), URLs: []string{}}
			if i < len(s.bound) && s.bound[i].URLs != nil {
				at.URLs = s.bound[i].URLs
			}
			if i < len(s.errs) && s.errs[i] != nil {
				at.Error = reason(s.errs[i])
			}
			st.Tunnels = append(st.Tunnels, at)
		}
	}
	return st
}

// AgentStats implements metrics.AgentSource.
func (b boardAdmin) AgentStats() metrics.AgentStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := metrics.AgentStats{
		Streams:    len(b.open),
		Opened:     b.streams,
		Refused:    b.refused,
		Received:   b.received,
		Sent:       b.sent,
		Reconnects: uint64(b.reconnects),
		Budget:     b.budget,
		Carriers:   make(map[string]int),
	}
	for _, c := range append(native.Carriers[:len(native.Carriers):len(native.Carriers)], native.QUIC) {
		st.Carriers[string(c)] = 0
	}
	for _, s := range b.agents {
		if s.phase == screen.Connected {
			st.Connected++
			if s.carrier != "" {
				st.Carriers[string(s.carrier)]++
			}
		} else {
			st.Away++
		}
		st.Tunnels += len(s.tunnels)
		for i := range s.tunnels {
			if i < len(s.errs) && s.errs[i] != nil {
				st.RefusedTunnels++
			}
		}
		st.RoundTrip = max(st.RoundTrip, s.roundTrip)
	}
	return st
}

// serveAdmin opens the admin address of agents, if there is one. The caller
// calls stop.
func (f *agentFlags) serveAdmin(d *display, budget *session.Budget) (stop func(), err error) {
	a, err := f.admin.open(f.p.dataDir(), d.log)
	if err != nil {
		return nil, err
	}
	b := boardAdmin{d.board, budget}
	return a.start(func(o *admin.Options) {
		o.Agent = b
		o.Metrics = metrics.Handler(metrics.Registry(versionString(), metrics.NewAgent(b)))
	})
}
