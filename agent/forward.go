package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"adit/dialect/native"
	"adit/tunnel"
)

// maxWait bounds how long OpenTarget waits for a connection to the server.
const maxWait = 15 * time.Second

// A present is the sessions on which the agent opens streams, if it has any.
type present struct {
	mu       sync.Mutex        // guards the fields below
	sessions []*native.Session // of the agent's lanes; nil where there is none
	changed  chan struct{}     // closed when the others change
	err      error             // why there is none, or no other; nil while the first is being made
	refused  bool              // err is the server's word, which it will not take back by itself
	over     bool              // there will be no other
}

// set makes s the present session of lane n; nil says that there is none, for a
// reason.
func (p *present) set(n int, s *native.Session, why error) {
	r, refused := native.RefusalOf(why)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.sessions[n], p.err, p.refused = s, why, refused && !r.Passing
	p.tellLocked()
}

// end lets nobody wait any more. why counts if nothing has failed before.
func (p *present) end(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.sessions)
	p.over = true
	if p.err == nil {
		p.err = why
	}
	p.tellLocked()
}

func (p *present) tellLocked() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// leastLoaded returns the session with the least to do, or nil if there is none.
func leastLoaded(sessions []*native.Session) (best *native.Session) {
	var least int
	var stalled bool
	for _, s := range sessions {
		if s == nil {
			continue
		}
		n, slow := s.Load()
		if best == nil || stalled && !slow || stalled == slow && n < least {
			best, least, stalled = s, n, slow
		}
	}
	return best
}

// wait returns a session as soon as there is one.
func (p *present) wait(ctx context.Context) (*native.Session, error) {
	for {
		p.mu.Lock()
		s, err, refused, over := leastLoaded(p.sessions), p.err, p.refused, p.over
		if s != nil {
			p.mu.Unlock()
			return s, nil
		}
		if p.changed == nil {
			p.changed = make(chan struct{})
		}
		changed := p.changed
		p.mu.Unlock()
		switch {
		case over:
			return nil, err
		case refused: // waiting is of no use before somebody has mended that
			return nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if err == nil {
				err = context.Cause(ctx)
			}
			return nil, fmt.Errorf("not connected to the server: %w", err)
		}
	}
}

// OpenTarget asks the server to connect a stream to a target, as far as the
// server and the credential allow that, and returns it when that is done. While
// the agent is not connected it waits, for 15 s at most; ctx bounds the opening
// alone. The stream outlives connections to the server, and the caller closes
// it. The error is a *tunnel.RefusedError if the server refuses.
//
// It works while Run does.
func (a *Agent) OpenTarget(ctx context.Context, t tunnel.Target) (net.Conn, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	for {
		s, err := a.present.wait(ctx)
		if err != nil {
			return nil, err
		}
		c, err := a.openTarget(ctx, s, t)
		switch {
		case err == nil:
			return c, nil
		case errors.Is(err, errStalled):
			continue // another session is better now
		case ctx.Err() != nil:
			return nil, errors.New("the server has not answered in time")
		case !isGone(err):
			return nil, err
		}
		a.present.leave(s)
	}
}

// stallCheck is how often a session is looked at on which a stream is opened.
const stallCheck = 250 * time.Millisecond

var errStalled = errors.New("the connection to the server has stalled")

// openTarget opens a stream on s. It gives that up with errStalled if s does not
// get on and the agent has another session, which does.
func (a *Agent) openTarget(ctx context.Context, s *native.Session, t tunnel.Target) (net.Conn, error) {
	if len(a.lanes) == 1 {
		return s.OpenTarget(ctx, t)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(stallCheck)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-over:
				return
			}
			if _, stalled := s.Load(); stalled && a.present.better(s) {
				cancel(errStalled)
				return
			}
		}
	})
	c, err := s.OpenTarget(ctx, t)
	close(over)
	wg.Wait()
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		err = errStalled
	}
	return c, err
}

// better reports whether there is another session than s that gets on.
func (p *present) better(s *native.Session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	best := leastLoaded(p.sessions)
	return best != nil && best != s
}

// isGone reports whether a stream was not opened because its session has ended,
// or is about to: another one may do it.
func isGone(err error) bool {
	re, ok := errors.AsType[*tunnel.RefusedError](err)
	return errors.Is(err, tunnel.ErrClosed) || ok && re.Code == tunnel.RefuseDraining
}

// leave lets the next one take another session than s.
func (p *present) leave(s *native.Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.sessions, s); i >= 0 {
		p.sessions[i] = nil
	}
}
