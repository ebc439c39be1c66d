// Package session is adit's native session: streams, and calls, over a carrier
// that may break and be replaced by another one while the streams go on. It
// speaks docs/protocol/native.md and needs of a carrier no more than a
// net.Conn.
//
// The side that dialled the carrier:
//
//	s, err := session.Dial(ctx, conn, opts)
//	...
//	<-s.Detached() // the carrier broke
//	conn, err = dialAgain(ctx)
//	err = s.Resume(ctx, conn) // every stream goes on where it was
//
// The other side keeps an Acceptor, which tells new sessions from resumed ones:
//
//	s, resumed, err := acceptor.Accept(ctx, conn)
//
// Either side opens streams with Open and takes those of the other side with
// Accept.
package session

import (
	"net"
	"sync"
	"time"
)

// A Session is one side of a session. Its methods are safe for concurrent use.
type Session struct {
	opts    *Options // with defaults; shared
	dialler bool
	id      sessionID
	secret  secretKey
	window  time.Duration // how long it is kept without a carrier
	credit  uint64        // first credit of streams that this side sends on
	value   any           // the owner's
	onEnd   func()        // called once when the session has ended

	attaching sync.Mutex // held while a carrier is replaced; guards attempt
	attempt   uint64

	mu      sync.Mutex // guards the fields below
	cond    sync.Cond  // of mu: link, end, accept queue and calls changed
	link    *link      // nil between carriers
	readers int        // goroutines that read a carrier, also a dropped one, or are parked
	lost    chan struct{}
	expiry  *time.Timer // ends the session between carriers
	err     error       // why it ended; nil while it lives
	done    chan struct{}
	notify  []func() // see OnChange

	attached uint32 // carriers that it has had
	losses   uint32 // and how many of them it has lost

	streams      map[uint64]*Stream
	nextID       uint64 // of the next stream that this side opens
	peerLast     uint64 // id of the last stream that the other side opened
	opened       int    // streams of this side in the map
	peerOpened   int    // and of the other side
	openLimit    int    // how many the other side allows
	draining     bool   // this side takes no new streams
	peerDraining bool   // nor the other
	acceptq      []*Stream
	calls        callState

	out sendState
	in  recvState

	budgetUsed int // growth of windows, of opts.WindowBudget
	rtt        time.Duration
	rttAt      time.Duration // when rtt was measured
	reasons    closing
}

var start = time.Now()

// sinceStart is a monotonic clock.
func sinceStart() time.Duration { return time.Since(start) }

func newSession(opts *Options, dialler bool) *Session {
	s := &Session{
		opts:    opts,
		dialler: dialler,
		done:    make(chan struct{}),
		nextID:  2,
	}
	if dialler {
		s.nextID = 1
	}
	s.cond.L = &s.mu
	s.out.spaceq.kind = spaceQueue
	return s
}

// agree takes over what the other side's half of the handshake said.
func (s *Session) agree(h *hello) {
	s.credit = h.window
	s.openLimit = int(min(h.streams, 1<<30))
	s.window = min(s.opts.ResumeWindow, h.resumeWindow)
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Value returns what Acceptor.Accept was given for the session, and nil on the
// side that dialled.
func (s *Session) Value() any { return s.value }

// Err returns why the session ended, and nil while it lives. The error wraps
// ErrClosed after a CLOSE of either side, or is ErrLost or a *ProtocolError.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Detached returns a channel that is closed when the present carrier is lost
// or the session ends; it is closed already if there is no carrier.
func (s *Session) Detached() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lost = make(chan struct{})
		if s.link == nil {
			close(s.lost)
		}
	}
	return s.lost
}

// OnChange registers f to be called after each change of Available, and when
// the session has ended, from any goroutine. f must not block.
func (s *Session) OnChange(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notify = append(s.notify[:len(s.notify):len(s.notify)], f)
}

// Available reports whether a stream that is opened now would reach the other
// side at once: there is a carrier, and the other side does not drain.
func (s *Session) Available() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == nil && s.link != nil && !s.peerDraining
}

// Attached reports whether the session has a carrier.
func (s *Session) Attached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link != nil
}

// RemoteAddr returns the address of the present carrier's other end, and nil
// without a carrier.
func (s *Session) RemoteAddr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link == nil {
		return nil
	}
	return s.link.conn.RemoteAddr()
}

// Streams returns the number of open streams.
func (s *Session) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

// OpenLimit returns how many streams at once the other side lets this one open.
func (s *Session) OpenLimit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openLimit
}

// RoundTrip returns the measured round trip time of the carrier, and zero
// while none is known.
func (s *Session) RoundTrip() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rtt
}

// Buffered returns the bytes of memory that the session holds for what the
// other side has not acknowledged, and for what nobody has read yet.
func (s *Session) Buffered() (send, receive int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.held, int(s.in.held.Load())
}

func (s *Session) notifyChange() {
	s.mu.Lock()
	notify := s.notify
	s.mu.Unlock()
	for _, f := range notify {
		f()
	}
}
