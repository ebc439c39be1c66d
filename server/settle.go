package server

import (
	"runtime/debug"
	"sync"
	"time"
)

const (
	settleAfter = 3 * time.Second // without an agent that connects
	settleEvery = time.Minute     // at most
)

// A settler gives memory back to the system when agents have connected: their
// handshakes take several times what their idle sessions hold, and the garbage
// collector, which is paced by what is allocated, would leave that lying for
// as long as they are idle. The zero settler is ready to use.
type settler struct {
	mu    sync.Mutex // guards the fields below
	timer *time.Timer
	last  time.Time // when memory was given back
	over  bool
}

// stir says that an agent has connected.
func (s *settler) stir() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	wait := max(settleAfter, time.Until(s.last.Add(settleEvery)))
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.settle)
		return
	}
	s.timer.Reset(wait)
}

func (s *settler) settle() {
	s.mu.Lock()
	s.last = time.Now()
	s.mu.Unlock()
	debug.FreeOSMemory()
}

// stop ends it; a settle that runs may end later.
func (s *settler) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.timer != nil {
		s.timer.Stop()
	}
}
