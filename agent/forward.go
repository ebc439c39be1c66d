package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"adit/dialect/native"
	"adit/tunnel"
)

// maxWait bounds how long OpenTarget waits for a connection to the server.
const maxWait = 15 * time.Second

// A present is the session on which the agent opens streams, if it has one.
type present struct {
	mu      sync.Mutex // guards the fields below
	session *native.Session
	changed chan struct{} // closed when session or err changes
	err     error         // why there is none, or no other; nil while the first is being made
	refused bool          // err is the server's word
	over    bool          // there will be no other
}

// set makes s the present session; nil says that there is none, for a reason.
func (p *present) set(s *native.Session, why error) {
	refused, _ := native.Refused(why)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.session, p.err, p.refused = s, why, refused
	p.tellLocked()
}

// end lets nobody wait any more. why counts if nothing has failed before.
func (p *present) end(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.session, p.over = nil, true
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

// wait returns the session as soon as there is one.
func (p *present) wait(ctx context.Context) (*native.Session, error) {
	for {
		p.mu.Lock()
		s, err, refused, over := p.session, p.err, p.refused, p.over
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
		c, err := s.OpenTarget(ctx, t)
		switch {
		case err == nil:
			return c, nil
		case ctx.Err() != nil:
			return nil, errors.New("the server has not answered in time")
		case !isGone(err):
			return nil, err
		}
		a.present.leave(s)
	}
}

// isGone reports whether a stream was not opened because its session has ended,
// or is about to: another one may do it.
func isGone(err error) bool {
	re, ok := errors.AsType[*tunnel.RefusedError](err)
	return errors.Is(err, tunnel.ErrClosed) || ok && re.Code == tunnel.RefuseDraining
}

// leave lets the next one wait for another session than s.
func (p *present) leave(s *native.Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.session == s {
		p.session = nil
	}
}
