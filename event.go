package adit

import (
	"fmt"
	"sync"
	"time"
)

// A State is where a Listener or Tunnel stands with its server.
type State string

const (
	StateConnecting   State = "connecting"   // it has not been connected yet
	StateConnected    State = "connected"    // visitors can come
	StateReconnecting State = "reconnecting" // the connection is lost; it is dialled again
	StateRefused      State = "refused"      // the server said no; it is asked again
	StateClosing      State = "closing"      // Close or Shutdown was called; visitors who are there finish
	StateClosed       State = "closed"       // nothing is left
)

// An Event is a change of state.
type Event struct {
	State State

	// URLs are the public addresses, best first; for StateConnected.
	URLs []string

	// Err is why: for StateReconnecting, StateRefused (a *RefusedError), for
	// StateConnecting after an attempt that failed, and for StateClosed if it
	// was neither Close nor Shutdown.
	Err error

	// Wait is the time until the next attempt, and 0 while one is made.
	Wait time.Duration
}

// String returns the event in a form for logs, such as "reconnecting in 2s:
// connection refused".
func (e Event) String() string {
	s := string(e.State)
	if len(e.URLs) > 0 {
		s += " at " + e.URLs[0]
	}
	if e.Wait > 0 {
		s += fmt.Sprintf(" in %v", e.Wait.Round(10*time.Millisecond))
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// maxEvents is how many events wait for a slow receiver.
const maxEvents = 64

// An eventQueue tells events to a function of the user's, which may be slow. A
// nil queue tells nobody.
type eventQueue struct {
	tell func(Event)
	wake chan struct{} // has room for one
	wg   sync.WaitGroup

	mu   sync.Mutex // guards the fields below
	buf  []Event
	over bool // no more are put
}

func newEventQueue(tell func(Event)) *eventQueue {
	if tell == nil {
		return nil
	}
	q := &eventQueue{tell: tell, wake: make(chan struct{}, 1)}
	q.wg.Go(q.run)
	return q
}

func (q *eventQueue) put(e Event) {
	if q == nil {
		return
	}
	q.mu.Lock()
	q.buf = append(q.buf, e)
	if n := len(q.buf) - maxEvents; n > 0 {
		q.buf = append(q.buf[:0], q.buf[n:]...)
	}
	q.mu.Unlock()
	q.signal()
}

func (q *eventQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *eventQueue) run() {
	for range q.wake {
		for {
			q.mu.Lock()
			if len(q.buf) == 0 {
				over := q.over
				q.mu.Unlock()
				if over {
					return
				}
				break
			}
			e := q.buf[0]
			q.buf = q.buf[1:]
			q.mu.Unlock()
			q.tell(e)
		}
	}
}

// end returns when all events have been told.
func (q *eventQueue) end() {
	if q == nil {
		return
	}
	q.mu.Lock()
	q.over = true
	q.mu.Unlock()
	q.signal()
	q.wg.Wait()
}
