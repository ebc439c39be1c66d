package server

import (
	"context"
	"sync"
	"sync/atomic"

	"adit/auth"
	"adit/forward"
	"adit/tunnel"
)

const (
	defaultMaxForwards = 10000 // streams of agents to targets, of all sessions together

	// greed is how many times as many streams as are left one may have who has
	// some already. So whoever takes all that it can get leaves a third of it to
	// the next one, and three who do so a seventh to a fourth.
	greed = 2
)

// forwards are the streams that agents have opened to targets.
type forwards struct {
	dialer forward.Dialer
	done   forwardCounts

	rules atomic.Pointer[[]auth.ForwardRule] // for all; replaced as a whole

	// Constant.
	max        int
	perSubject int // but for the shared secret; 0 means no bound of that kind

	mu      sync.Mutex // guards the fields below, and binder.forwarding
	open    int
	holders map[string]int // open ones by subject
	none    chan struct{}  // closed when open is 0; nil unless somebody waits
}

// init takes the rules and bounds from the options.
func (f *forwards) init(opts *Options) {
	f.rules.Store(&opts.Forward)
	f.max, f.perSubject = opts.MaxForwards, opts.MaxForwardsPerSubject
	if f.max == 0 {
		f.max = defaultMaxForwards
	}
	f.holders = make(map[string]int)
}

// allowed returns the rules for all.
func (f *forwards) allowed() []auth.ForwardRule { return *f.rules.Load() }

func busy(reason string) error {
	return &tunnel.RefusedError{Code: tunnel.RefuseBusy, Reason: reason}
}

// enter counts a stream of b in, unless there are too many: of all, of those of
// the credential's holder, or of the session. Of what there is, a holder has its
// share, and so has each of its sessions of that. Who gets nil calls leave.
func (f *forwards) enter(b *binder) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	held := f.holders[b.holder]
	left := f.max - f.open
	leftToHolder := greed*left - held
	switch {
	case left <= 0:
		return busy("the server has as many forwards as it takes")
	case f.perSubject > 0 && b.holder != auth.SecretSubject && held >= f.perSubject:
		return busy("there are as many forwards with credentials of this holder as there may be")
	case leftToHolder <= 0:
		return busy("the forwards with credentials of this holder are their share of what the server takes")
	case b.forwarding >= greed*leftToHolder:
		return busy("the forwards of this session are its share of what the server takes")
	}
	f.open++
	f.holders[b.holder]++
	b.forwarding++
	return nil
}

// leave is the end of enter.
func (f *forwards) leave(b *binder) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b.forwarding--
	if f.holders[b.holder]--; f.holders[b.holder] == 0 {
		delete(f.holders, b.holder)
	}
	if f.open--; f.open == 0 && f.none != nil {
		close(f.none)
		f.none = nil
	}
}

// shutdown waits until no stream is left, or ctx ends. It is called once.
func (f *forwards) shutdown(ctx context.Context) {
	f.mu.Lock()
	none := make(chan struct{})
	if f.open == 0 {
		close(none)
	} else {
		f.none = none
	}
	f.mu.Unlock()
	select {
	case <-none:
	case <-ctx.Done():
	}
}
