package main

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"adit/agent"
	"adit/tunnel"
)

// silence is how long a person is told nothing at most.
const silence = 2 * time.Second

// A waiter tells the person at a terminal what adit stdio waits for, if that
// takes long. Its methods are safe for concurrent use.
type waiter struct {
	p      *program
	target tunnel.Target
	timer  *time.Timer

	mu   sync.Mutex // held while printing
	last agent.State
	over bool
}

func (p *program) newWaiter(target tunnel.Target) *waiter {
	w := &waiter{p: p, target: target}
	if p.console {
		w.timer = time.AfterFunc(silence, w.tell)
	}
	return w
}

// state is told of the agent's states.
func (w *waiter) state(s agent.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.Err != nil || s.Phase == agent.Connected {
		w.last = s
	}
}

func (w *waiter) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	what := "the server"
	switch {
	case w.over:
		return
	case w.last.Phase == agent.Connected:
		what = strconv.Quote(w.target.String())
	case w.last.Err != nil:
		what += ": " + reason(w.last.Err)
	}
	fmt.Fprintln(w.p.errOut, "adit: waiting for "+what)
}

// stop has it say nothing any more.
func (w *waiter) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
}
