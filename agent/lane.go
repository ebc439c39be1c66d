package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"adit/dialect"
	"adit/dialect/native"
	"adit/internal/backoff"
)

// A lane is one of the sessions that an agent has at a time, and all that take
// its place. Each binds all tunnels.
type lane struct {
	*Agent
	n       int // among the agent's lanes
	dialer  *native.Dialer
	tunnels *tunnelSet
	drained chan struct{} // gets one when a session that the server drained has ended
	began   chan struct{} // closed when everything was bound once

	log      *slog.Logger
	settled  bool // everything was bound once, here or on the first lane; of the goroutine in run
	handlers *handlerServers
}

// addLanes makes the agent's lanes.
func (a *Agent) addLanes() {
	run := ""
	if a.opts.Connections > 1 {
		run = rand.Text()
	}
	for n := range a.opts.Connections {
		d, log := *a.dialer, a.log
		if run != "" {
			d.Run, d.Number = run, n+1
			log = log.With("connection", n+1)
		}
		a.lanes = append(a.lanes, &lane{
			Agent:    a,
			n:        n,
			dialer:   &d,
			tunnels:  newTunnelSet(a.opts.Tunnels),
			drained:  make(chan struct{}, 1),
			began:    make(chan struct{}),
			handlers: newHandlerServers(log),
			log:      log,
		})
	}
	a.states = make([]State, len(a.lanes))
	a.present.sessions = make([]*native.Session, len(a.lanes))
}

// mayBegin waits until the first lane has bound everything, which decides on
// what the server chooses, such as ports. It reports false if ctx ends before.
func (l *lane) mayBegin(ctx context.Context) bool {
	if l.n == 0 {
		return true
	}
	select {
	case <-l.lanes[0].began:
		l.settled = true
		return true
	case <-ctx.Done():
		return false
	}
}

// run keeps the lane up until trying ends, which is with ctx or before; see
// Agent.Run for its error.
func (l *lane) run(ctx, trying context.Context) error {
	b := backoff.Backoff{Min: reconnectMin, Max: reconnectMax}
	l.state(State{Phase: Connecting})
	for {
		begin := time.Now()
		err := l.connect(ctx, trying)
		lasted := time.Since(begin)
		if lasted >= steady {
			b.Reset()
		}
		l.present.set(l.n, nil, err)
		switch {
		case trying.Err() != nil:
			return nil
		case l.final(err):
			return err
		case errors.Is(err, errDrained) && lasted >= steady:
			continue // another server may be there already
		}
		wait := b.Next()
		phase := Reconnecting
		if refused, after := native.Refused(err); refused {
			phase, wait = Refused, max(wait, min(after, reconnectMax))
		}
		l.log.Warn("not connected", "err", err, "dur", wait)
		l.state(State{Phase: phase, Err: err, Wait: wait})
		if !l.pause(trying, wait, &b) {
			return nil
		}
	}
}

// pause waits for d, and reports false if ctx has ended by then. When a server that
// drained ends meanwhile, one in its place may be there soon: the wait begins
// anew with the shortest one.
func (l *lane) pause(ctx context.Context, d time.Duration, b *backoff.Backoff) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return ctx.Err() == nil // both may have come
		case <-l.drained:
			b.Reset()
			t.Reset(b.Next())
		case <-ctx.Done():
			return false
		}
	}
}

// final reports whether trying again is of no use: it would need other options.
// Once everything was bound it is the server's mind or the credential that has
// changed, and may change again.
func (l *lane) final(err error) bool {
	if be, ok := errors.AsType[*dialect.BindError](err); ok && !l.settled {
		return be.Code == dialect.BindInvalid || be.Code == dialect.BindForbidden
	}
	return errors.Is(err, ErrSuperseded)
}

// state tells of the lane's state, and with it of the agent's.
func (l *lane) state(s State) {
	if l.opts.OnState == nil {
		return
	}
	l.telling.Lock()
	defer l.telling.Unlock()
	l.states[l.n] = s
	if all, ok := l.overallLocked(l.n); ok {
		l.opts.OnState(all)
	}
}

// overallLocked returns the agent's state when that of lane n has changed. ok
// says that there is something to tell.
func (a *Agent) overallLocked(n int) (s State, ok bool) {
	if len(a.states) == 1 {
		return a.states[0], true
	}
	first, up := -1, 0
	for i, s := range a.states {
		switch s.Phase {
		case Stopping:
			return s, i == n
		case Connected:
			if up++; first < 0 {
				first = i
			}
		}
	}
	if first >= 0 {
		s := a.states[first]
		s.Connections = up
		return s, true
	}
	return a.states[0], a.states[0].Phase != ""
}

// connect runs one session until it ends, and returns why. errDrained means that
// the agent is to connect elsewhere; the session lives on until its streams have
// ended. trying ends with ctx or before.
func (l *lane) connect(ctx, trying context.Context) error {
	st := newSitting(l)
	present, _ := l.tunnels.snapshot()
	d := *l.dialer
	if len(present) > 0 {
		d.ID = present[0].ID
	}
	shown := &shownToken{token: l.opts.Token}
	if l.opts.Token != nil {
		d.Token = shown.next
	}
	so := l.opts.Session
	so.Logger = l.log
	so.OnCarrier = st.onCarrier
	s, err := native.Dial(trying, &d, so)
	if err != nil {
		return err
	}
	st.session = s
	drain := make(chan struct{}, 1)
	s.OnChange(func() {
		if s.Draining() {
			select {
			case drain <- struct{}{}:
			default:
			}
		}
	})
	// Serve goes on while streams finish, so that they survive their carrier.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	l.streams.Go(func() { ended <- s.Serve(serving) })
	l.streams.Go(func() { l.accept(s) })
	l.streams.Go(func() { l.keepCredential(s, shown.first) })

	st.settle(trying)
	if err := st.failure(); err != nil {
		stop()
		s.Close()
		return reason(err)
	}
	if !l.settled {
		l.settled = true
		close(l.began)
	}
	l.present.set(l.n, s, nil)
	st.tell()
	if (l.opts.OnRoundTrip != nil || l.opts.OnCarrier != nil) && l.n == 0 {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		l.streams.Go(func() { l.follow(ctx, s) })
	}
	for {
		again := st.again()
		select {
		case err := <-ended:
			again.Stop()
			stop()
			s.Close()
			return reason(err)
		case <-drain:
			again.Stop()
			l.log.Info("server drains")
			st.retire()
			l.streams.Go(func() {
				defer stop()
				st.finish(ctx, true, func() {})
				select {
				case l.drained <- struct{}{}:
				default:
				}
			})
			return errDrained
		case <-trying.Done():
			again.Stop()
			defer stop()
			if ctx.Err() == nil {
				st.leave(ctx)
				l.state(State{Phase: Stopping})
			}
			st.finish(ctx, false, func() { l.state(State{Phase: Stopping}) })
			return context.Cause(trying)
		case <-l.tunnels.changed:
		case <-again.C:
		}
		again.Stop()
		if st.settle(trying) {
			st.tell()
		}
	}
}

// reason names the end of a session.
func reason(err error) error {
	if superseded, _ := native.Ended(err); superseded {
		return ErrSuperseded
	}
	return err
}

// retire forgets tunnels that are bound no more.
func (l *lane) retire(gone []*member) {
	for _, up := range l.tunnels.retire(gone) {
		if up.handler != nil {
			l.handlers.retire(up)
		}
	}
}
