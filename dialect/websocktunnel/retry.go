package websocktunnel

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"adit/dialect/websocktunnel/wsmux"
)

func (r Retry) withDefaults() Retry {
	def := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&r.Initial, 500*time.Millisecond)
	def(&r.Max, 60*time.Second)
	def(&r.Total, 3*time.Minute)
	if r.Factor <= 0 {
		r.Factor = 1.5
	}
	if r.Random <= 0 {
		r.Random = 0.5
	}
	return r
}

// next returns the delay that follows last.
func (r Retry) next(last time.Duration) time.Duration {
	factor := r.Factor - r.Random + 2*r.Random*rand.Float64()
	return min(time.Duration(factor*float64(last)), r.Max)
}

// standby is the time between attempts of an agent whose ID another one serves,
// to see whether that is gone: 5 s by default.
func (r Retry) standby() time.Duration { return min(10*r.Initial, r.Max) }

// steady is how long a session has to last for the next one to be had at once.
const steady = 5 * time.Second

// A pacer keeps sessions that end soon from following each other without a
// pause: two agents with one ID would take it from each other as fast as they
// can, at a server that cannot tell them so.
type pacer struct {
	retry Retry // with defaults
	short int   // sessions in a row that ended soon
	delay time.Duration
}

// pause returns how long to wait after a session that lasted so long. After
// the first short one that is not at all.
func (p *pacer) pause(lasted time.Duration) time.Duration {
	if lasted >= max(steady, 2*p.delay) {
		p.short, p.delay = 0, 0
		return 0
	}
	switch p.short++; p.short {
	case 1:
	case 2:
		p.delay = p.retry.Initial
	default:
		p.delay = p.retry.next(p.delay)
	}
	return p.delay
}

// again makes a round of attempts to get another session. superseded says that
// another agent has taken over: this one then waits, for as long as it takes,
// until that is gone.
func (l *Listener) again(ctx context.Context, superseded bool) (*wsmux.Session, error) {
	if err := l.configure(ctx, false); err != nil {
		return nil, err
	}
	for superseded {
		if !sleep(ctx, l.opts.Retry.withDefaults().standby()) {
			return nil, context.Cause(ctx)
		}
		s, err := l.attempt(ctx, true)
		var se *StatusError
		switch {
		case err == nil:
			return s, nil
		case !errors.As(err, &se) || se.Code != http.StatusConflict:
			superseded = false // it is not there to say, or no longer knows
		default:
			l.log.Debug("standing by", "err", err)
		}
	}
	return l.connect(ctx)
}

// connect makes a round of attempts.
func (l *Listener) connect(ctx context.Context) (*wsmux.Session, error) {
	retry := l.opts.Retry.withDefaults()
	began := time.Now()
	delay := retry.Initial
	for try := 1; ; try++ {
		s, err := l.attempt(ctx, false)
		if err == nil {
			return s, nil
		}
		var se *StatusError
		if errors.As(err, &se) && se.Code == http.StatusUnauthorized && l.renew(ctx) {
			if s, err = l.attempt(ctx, false); err == nil {
				return s, nil
			}
		}
		l.log.Warn("not connected", "attempt", try, "err", err)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.As(err, &se) && se.Code == http.StatusUnauthorized && try == 1:
			return nil, &roundError{ErrAuthFailed, err}
		case errors.As(err, &se) && (se.Code/100 == 2 || se.Code/100 == 4):
			return nil, &roundError{ErrRetryFailed, err}
		}
		if time.Since(began)+delay > retry.Total {
			return nil, &roundError{ErrRetryTimedOut, err}
		}
		if !sleep(ctx, delay) {
			return nil, context.Cause(ctx)
		}
		delay = retry.next(delay)
	}
}

// A roundError is how a round of attempts ended, and the last one's error.
type roundError struct{ round, last error }

func (e *roundError) Error() string   { return e.round.Error() + ": " + e.last.Error() }
func (e *roundError) Unwrap() []error { return []error{e.round, e.last} }

// attempt makes one attempt, and starts the session.
func (l *Listener) attempt(ctx context.Context, standby bool) (*wsmux.Session, error) {
	l.mu.Lock()
	d := &dialer{config: l.config, opts: &l.opts, standby: standby}
	l.mu.Unlock()
	s, url, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.url = url
	l.mu.Unlock()
	s.Start(nil)
	return s, nil
}

// configure asks for a configuration.
func (l *Listener) configure(ctx context.Context, refused bool) error {
	l.mu.Lock()
	last := l.config
	l.mu.Unlock()
	c, err := l.opts.Configure(ctx, Ask{Last: &last, Refused: refused})
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.config = c
	l.mu.Unlock()
	return nil
}

// renew asks for another configuration than the one that was refused, and
// reports whether there is one.
func (l *Listener) renew(ctx context.Context) bool {
	l.mu.Lock()
	last := l.config
	l.mu.Unlock()
	if l.configure(ctx, true) != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.config != last
}

// sleep reports false if ctx ended before d was over.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
