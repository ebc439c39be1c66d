package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/backoff"
	"adit/tunnel"
)

// bindAtOnce is how many calls of Bind may wait for their answers.
const bindAtOnce = 8

// What cannot be bound beside others that can is tried again after waits that
// grow from the first to the second.
const (
	rebindMin = time.Second
	rebindMax = 15 * time.Second
)

// A sitting is a session of the agent with what is bound on it.
type sitting struct {
	agent   *lane
	session *native.Session

	held    map[*member]dialect.Bound // of the goroutine in connect, as are the next two
	failed  map[*member]error         // of those that should be bound
	retries backoff.Backoff           // between attempts to bind what has failed

	mu        sync.Mutex // guards the fields below; held while states are told, in order
	connected State      // what is told of a session that has a carrier; zero until all was bound once
	lost      bool       // it has none
	retired   bool       // another session speaks for the agent
}

// onCarrier is native.SessionOptions.OnCarrier.
func (s *sitting) onCarrier(lost error, wait time.Duration) {
	if lost == nil {
		s.agent.log.Info("session resumed", "carrier", string(s.session.Carrier()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = lost != nil
	switch {
	case s.retired:
	case lost != nil:
		s.agent.state(State{Phase: Reconnecting, Err: lost, Wait: wait})
	case s.connected.Phase != "":
		s.agent.state(s.connected)
	}
}

// retire lets the session say nothing more of the agent's state.
func (s *sitting) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	s.session.LetGo()
}

func newSitting(l *lane) *sitting {
	return &sitting{
		agent:   l,
		held:    make(map[*member]dialect.Bound),
		failed:  make(map[*member]error),
		retries: backoff.Backoff{Min: rebindMin, Max: rebindMax},
	}
}

// settle binds what should be bound and is not, and unbinds what should not be:
// in this order, so that a tunnel that is replaced is never without one of the
// two. It reports whether the state that goes with it has changed.
func (s *sitting) settle(ctx context.Context) (changed bool) {
	present, leaving := s.agent.tunnels.snapshot()
	clear(s.failed)
	s.bindAll(ctx, present)
	gone, freed := s.unbindAll(ctx, leaving)
	if freed && len(s.failed) > 0 {
		clear(s.failed) // what was in the way may have gone
		s.bindAll(ctx, present)
	}
	s.agent.retire(gone)

	st := State{Phase: Connected}
	for _, m := range present {
		st.Tunnels = append(st.Tunnels, m.Tunnel)
		st.Bound = append(st.Bound, s.held[m])
		st.Errs = append(st.Errs, s.failed[m])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = !st.sameBound(s.connected)
	s.connected = st
	return changed
}

// sameBound reports whether two states say the same of the same tunnels.
func (s State) sameBound(o State) bool {
	return reflect.DeepEqual(s.Bound, o.Bound) &&
		slices.EqualFunc(s.Tunnels, o.Tunnels, Tunnel.same) &&
		slices.EqualFunc(s.Errs, o.Errs, func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) })
}

// failure returns why the session is of no use: why none of the tunnels could
// be bound, or why one never will be. It is nil if there is no such reason.
func (s *sitting) failure() (err error) {
	for _, e := range s.failed {
		if s.agent.final(e) {
			return e
		}
		err = e
	}
	if len(s.held) > 0 {
		return nil
	}
	return err
}

// tell tells the agent's state after settle.
func (s *sitting) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.lost && !s.retired {
		s.agent.state(s.connected)
	}
}

// bindAll binds those that are not bound. Of tunnels with one ID the first gets
// its choice of ports first.
func (s *sitting) bindAll(ctx context.Context, members []*member) {
	byID := make(map[tunnel.ID][]*member)
	var ids []tunnel.ID
	for _, m := range members {
		if _, ok := s.held[m]; ok {
			continue
		}
		if byID[m.ID] == nil {
			ids = append(ids, m.ID)
		}
		byID[m.ID] = append(byID[m.ID], m)
	}
	var mu sync.Mutex // guards s.held, s.failed and stuck
	var stuck error   // the session does not answer: then it is asked nothing more
	one := func(m *member) {
		mu.Lock()
		err := stuck
		mu.Unlock()
		var bound dialect.Bound
		if err == nil {
			bound, err = s.bind(ctx, m)
		}
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			s.held[m] = bound
			return
		}
		if !errors.As(err, new(*dialect.BindError)) {
			stuck = err
		}
		s.failed[m] = fmt.Errorf("bind %q: %w", m.ID, err)
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, bindAtOnce)
	for _, id := range ids {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			for _, m := range byID[id] {
				one(m)
			}
		})
	}
	wg.Wait()
}

// bind asks for the public address of a tunnel.
func (s *sitting) bind(ctx context.Context, m *member) (dialect.Bound, error) {
	ctx, cancel := context.WithTimeout(ctx, bindTimeout)
	defer cancel()
	b := m.binding()
	b.Key, b.Service = m.key(), m.service
	first := s.agent.n == 0
	if b.Port == 0 && first {
		b.Port = m.port
	}
	if b.Port == 0 && (b.Kind == dialect.TCP || b.Kind == dialect.UDP) && !first {
		if b.Port = s.agent.ports.get(m.service); b.Port == 0 {
			return dialect.Bound{}, &dialect.BindError{Code: dialect.BindNoPort, Reason: "the port is not known yet that another connection gets for it"}
		}
	}
	got, err := s.session.Bind(ctx, b)
	if errors.As(err, new(*dialect.BindError)) && b.Port != m.Port && first {
		b.Port = m.Port // the one of last time is not to be had
		got, err = s.session.Bind(ctx, b)
	}
	if unmet := unmet(b, got); err == nil && unmet != "" {
		if err := s.unbind(ctx, m); err != nil {
			return dialect.Bound{}, err
		}
		err = &dialect.BindError{Code: dialect.BindInvalid, Reason: unmet}
	}
	if err == nil {
		m.port = got.Port
		if first {
			s.agent.ports.set(m.service, got.Port)
		}
	}
	return got, err
}

// unmet says what keeps visitors out and was asked for, and what an older server
// does not know of: it lets everybody in. It is empty if there is no such thing.
func unmet(asked dialect.Binding, got dialect.Bound) string {
	switch {
	case len(asked.Policy) > 0 && !got.Policy:
		return "policy: this server enforces none; use a newer one, or leave the rules for visitors out"
	case asked.Addr.IsValid() && got.Addr.Addr() != asked.Addr:
		return fmt.Sprintf("address %s: this server has bound the port on %s instead; use a newer one, or leave the address out", asked.Addr, got.Addr.Addr())
	}
	return ""
}

// unbindAll gives back what members have, and returns those that have nothing
// any more. freed says that one had.
func (s *sitting) unbindAll(ctx context.Context, members []*member) (gone []*member, freed bool) {
	for _, m := range members {
		if _, ok := s.held[m]; ok {
			if err := s.unbind(ctx, m); err != nil {
				s.agent.log.Warn("not unbound", "tunnel", string(m.ID), "err", err)
				break
			}
			delete(s.held, m)
			freed = true
		}
		gone = append(gone, m)
	}
	return gone, freed
}

func (s *sitting) unbind(ctx context.Context, m *member) error {
	ctx, cancel := context.WithTimeout(ctx, bindTimeout)
	defer cancel()
	return s.session.Unbind(ctx, m.key())
}

// again returns when to try what has failed again. The caller stops the timer.
func (s *sitting) again() *time.Timer {
	wait := time.Duration(-1)
	for _, err := range s.failed {
		if be, ok := errors.AsType[*dialect.BindError](err); !ok || be.Code != dialect.BindInvalid {
			wait = s.retries.Next()
			break
		}
	}
	if wait < 0 {
		s.retries.Reset()
		wait = 1<<63 - 1
	}
	return time.NewTimer(wait)
}

// finish closes the session when its streams have ended. If moved, the server
// ends it, which may open streams for visitors that are still there until then.
// When ctx ends finish asks for no more streams, calls told, and gives those
// that are open the time of Options.Grace.
func (s *sitting) finish(ctx context.Context, moved bool, told func()) {
	limit := time.NewTimer(drainTimeout)
	defer limit.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	ending := ctx.Done()
	var cut <-chan struct{}
	for wait := true; wait && (moved || s.session.Streams() > 0); {
		select {
		case <-tick.C:
		case <-ending:
			ending, moved, cut = nil, false, s.agent.opts.Cut
			s.session.Drain("the agent is shutting down")
			limit.Reset(s.agent.opts.Grace)
			told()
		case <-cut:
			wait = false
		case <-limit.C:
			wait = false
		case <-s.session.Done():
			wait = false
		}
	}
	s.session.Close()
}

// leave takes back everything, so that the server opens no more streams.
func (s *sitting) leave(ctx context.Context) {
	s.unbindAll(ctx, slices.Collect(maps.Keys(s.held)))
	s.session.Drain("the agent is shutting down")
}
