package server

import (
	"cmp"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"

	"adit/admin"
	"adit/tunnel"
)

var _ admin.Server = (*Server)(nil)

// What Ready returns.
var (
	errStarting = errors.New("starting")
	errDraining = errors.New("draining")
)

// newSessionID returns what tells a session apart in logs and at the admin
// address. It is no secret: nobody gets in with it.
func newSessionID() string { return strings.ToLower(rand.Text()[:12]) }

// Ready implements admin.Server. The server is ready from the beginning of Run
// until it drains.
func (s *Server) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return errDraining
	case !s.ran:
		return errStarting
	}
	return nil
}

// Status implements admin.Server.
func (s *Server) Status() admin.Status {
	st := admin.Status{
		Version:  s.opts.Version,
		Started:  s.began,
		URL:      s.URL(),
		Ready:    s.Ready() == nil,
		Visitors: s.http.Visitors() + s.tcp.Visitors() + s.udp.Visitors(),
		Waiting:  s.table.Stats().Waiting,
	}
	if s.tls != nil {
		st.Visitors += s.tls.Stats().Visitors
	}
	for _, b := range s.binders() {
		st.Sessions++
		st.Streams += b.streams()
		b.mu.Lock()
		st.Tunnels += len(b.names)
		b.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Draining = s.draining
	return st
}

// binders returns those of all tunnels, in the order of their sessions' IDs.
func (s *Server) binders() []*binder {
	s.mu.Lock()
	all := make([]*binder, 0, len(s.tunnels))
	for _, b := range s.tunnels {
		all = append(all, b)
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b *binder) int { return cmp.Compare(a.session, b.session) })
	return all
}

func (b *binder) state() admin.State {
	a, ok := b.tunnel.(tunnel.Availability)
	select {
	case <-b.tunnel.Done():
		return admin.Away
	default:
	}
	if ok && !a.Available() {
		return admin.Away
	}
	return admin.Available
}

func (b *binder) streams() int {
	if d, ok := b.tunnel.(interface{ Streams() int }); ok {
		return d.Streams()
	}
	return 0
}

// Sessions implements admin.Server.
func (s *Server) Sessions() []admin.Session {
	var all []admin.Session
	for _, b := range s.binders() {
		v := admin.Session{
			ID:          b.session,
			Dialect:     b.dialect,
			AgentID:     string(b.tunnel.ID()),
			Remote:      b.remote,
			State:       b.state(),
			ConnectedAt: b.began,
			Streams:     b.streams(),
		}
		if i, ok := b.tunnel.(tunnel.Instancer); ok {
			v.Instance = i.Instance()
		}
		if r, ok := b.tunnel.(interface{ RoundTrip() time.Duration }); ok {
			v.RoundTrip = r.RoundTrip().Seconds()
		}
		v.Carrier = carrierOf(b.tunnel)
		if m, ok := b.tunnel.(interface{ Buffered() (send, receive int) }); ok {
			send, receive := m.Buffered()
			v.Buffered = send + receive
		}
		b.mu.Lock()
		v.Subject, v.ExpiresAt, v.Tunnels = b.identity.Subject, b.identity.Expires, len(b.names)
		v.Credential, v.TokenID = string(b.identity.Kind), b.identity.Token
		b.mu.Unlock()
		all = append(all, v)
	}
	return all
}

// Tunnels implements admin.Server.
func (s *Server) Tunnels() []admin.Tunnel {
	var all []admin.Tunnel
	for _, b := range s.binders() {
		state := b.state()
		b.mu.Lock()
		for _, n := range b.names {
			all = append(all, admin.Tunnel{
				ID:      string(n.id),
				Kind:    string(n.kind),
				Service: n.service,
				URLs:    n.urls,
				Port:    n.port,
				Session: b.session,
				Subject: b.identity.Subject,
				State:   state,
				BoundAt: n.since,
			})
		}
		b.mu.Unlock()
	}
	slices.SortStableFunc(all, func(a, b admin.Tunnel) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Routes implements admin.Server.
func (s *Server) Routes() []admin.Route {
	s.mu.Lock()
	sessions := make(map[tunnel.Tunnel]string, len(s.tunnels))
	for t, b := range s.tunnels {
		sessions[t] = b.session
	}
	s.mu.Unlock()
	var all []admin.Route
	for _, n := range s.table.Snapshot() {
		r := admin.Route{
			Key:     n.Key,
			ID:      string(n.ID),
			Subject: n.Owner,
			Waiting: n.Waiting,
			Blocked: n.Blocked,
			Kind:    string(n.Kind),
			Sticky:  n.Sticky,
			Targets: []admin.Target{},
		}
		for _, t := range n.Tunnels {
			v := admin.Target{Session: sessions[t.Tunnel], Service: t.Service, State: admin.Available}
			if !t.Available {
				v.State = admin.Away
			}
			if n.Kind != "" {
				v.ID, v.Priority, v.Weight, v.Health, v.Error = string(t.ID), t.Priority, t.Weight, t.Health, t.Problem
			}
			r.Targets = append(r.Targets, v)
		}
		all = append(all, r)
	}
	return all
}

// CloseSession implements admin.Server.
func (s *Server) CloseSession(id string) error {
	for _, b := range s.binders() {
		if b.session != id {
			continue
		}
		err := admin.ErrNotFound // the server is about to end it anyway
		s.unlessClosing(func() {
			err = end(b.tunnel, tunnel.EndDone, "the operator of the server has closed the session")
		})
		return err
	}
	return admin.ErrNotFound
}
