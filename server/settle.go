package server

import (
	"runtime/debug"
	"sync"
	"time"
)

const (
	settleAfter = 3 * time.Second  // without an agent that connects
	settleAgain = 15 * time.Second // later: sessions at rest have changed to small stacks
	settleEvery = time.Minute      // at most
)

// A settler gives memory back to the system when agents have connected: their
// handshakes take several times what their idle sessions hold, and the garbage
// collector, which is paced by what is allocated, would leave that lying for
// as long as they are idle. The zero settler is ready to use.
type settler struct {
	mu    sync.Mutex // guards the fields below
	timer *time.Timer
	last  time.Time // when memory was given back for the first time
	again bool      // it is to be given back for the second time
	over  bool
}

// stir says that an agent has connected.
func (s *settler) stir() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.again = false
	wait := max(settleAfter, time.Until(s.last.Add(settleEvery)))
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.settle)
		return
	}
	s.timer.Reset(wait)
}

func (s *settler) settle() {
	s.mu.Lock()
	if !s.again && !s.over {
		s.again = true
		s.last = time.Now()
		s.timer.Reset(settleAgain)
	}
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
