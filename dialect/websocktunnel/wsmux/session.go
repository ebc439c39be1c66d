package wsmux

import (
	"container/list"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/readable"
	"adit/internal/trywrite"
	"adit/internal/wsframe"
	"adit/tunnel"
)

// A Role is which side of the WebSocket a session is on.
type Role uint8

const (
	Server Role = iota // opens streams
	Agent              // accepts them, and masks what it sends
)

// Options configures a Session. The zero value fits a side that knows nothing
// of the other.
type Options struct {
	// Extended says that both sides speak the extension: each begins a stream
	// with a credit of the other's Window, which PeerWindow is here.
	Extended bool

	// Window is how many bytes a stream takes in that nobody has read, at
	// first and with the extension; 0 means 256 KiB. It grows up to MaxWindow
	// where the path and not the reader is what holds the stream up.
	Window int

	// MaxWindow is the largest window, and without the extension that of each
	// stream; 0 means 4 MiB, which agents of originals send without being
	// asked to.
	MaxWindow int

	// PeerWindow is how many bytes may be sent on a stream before the other
	// side gives credit, for an agent and with the extension; 0 means 4096,
	// which is what servers before websocktunnel 93.1.5 hold.
	PeerWindow int

	// MaxUnaccepted bounds the streams that were opened and not yet accepted;
	// 0 means 100. One more waits: originals freeze when 200 do.
	MaxUnaccepted int

	// MaxStreams bounds the streams at a time; 0 means 8192. One more is
	// refused.
	MaxStreams int

	// MaxHeld bounds what was received on all streams and waits for its
	// readers, in bytes; 0 means 128 MiB, and 512 MiB without the extension,
	// where the other side may send 4 MiB on each stream. Beyond, the stream
	// ends that nobody has read for longest.
	MaxHeld int64

	// KeepAlive is the time between pings; 0 means 20 s. A side from which
	// nothing comes for so long, or at most twice as long, is given up.
	KeepAlive time.Duration

	// ZeroMask lets an Agent mask with the key 0, which changes nothing and
	// so costs nothing. It is for where nothing between can see the bytes.
	ZeroMask bool

	// Buffered are bytes that were read from the conn already.
	Buffered []byte
}

const (
	defaultWindow     = 256 << 10
	defaultMaxWindow  = 4 << 20
	oldServerHolds    = 4096
	defaultUnaccepted = 100
	defaultStreams    = 8192
	defaultHeld       = 128 << 20
	defaultPlainHeld  = 512 << 20
	defaultKeepAlive  = 20 * time.Second
	growthBudget      = 16 << 20 // of the windows of one session beyond Options.Window
)

func orDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// A Session is one side of a WebSocket with the streams on it. Its methods are
// safe for concurrent use.
type Session struct {
	conn net.Conn
	role Role
	opts Options          // constant after New
	sock *trywrite.Writer // nil if conn is no socket; of whoever has out.writing
	in   reader           // of readLoop
	held atomic.Int64     // bytes that nobody has read yet
	came atomic.Int64     // bytes of all streams, ever
	done chan struct{}

	mu       sync.Mutex // guards the fields below
	cond     sync.Cond  // acceptq or err changed
	started  bool
	streams  map[uint32]*Stream
	nextID   uint32
	window   int       // what a new stream may send without having been given credit
	grown    int       // of all windows, counts against growthBudget
	pending  int       // streams that were opened and not yet accepted
	waiting  list.List // of chan struct{}, of those that wait to open
	acceptq  []*Stream
	out      sendState
	heard    bool // since the last tick
	heardAt  time.Time
	ticks    uint // so far
	tick     *time.Timer
	rtt      time.Duration // the shortest measured; 0 if none was
	soon     *time.Timer   // of flushSoonLocked
	armed    bool          // it runs
	err      error         // why the session has ended
	closing  bool          // farewell
	onChange []func()

	wg sync.WaitGroup // of all goroutines
}

// New returns a session on conn, after the handshake. It owns conn; the caller
// closes the session. Nothing is sent or received before Start.
func New(conn net.Conn, role Role, opts Options) *Session {
	orDefault(&opts.Window, defaultWindow)
	orDefault(&opts.MaxWindow, defaultMaxWindow)
	orDefault(&opts.PeerWindow, oldServerHolds)
	orDefault(&opts.MaxUnaccepted, defaultUnaccepted)
	orDefault(&opts.MaxStreams, defaultStreams)
	orDefault(&opts.KeepAlive, defaultKeepAlive)
	opts.MaxWindow = max(opts.MaxWindow, opts.Window)
	if !opts.Extended {
		opts.Window = opts.MaxWindow
		orDefault(&opts.MaxHeld, defaultPlainHeld)
	}
	orDefault(&opts.MaxHeld, defaultHeld)
	s := &Session{conn: conn, role: role, opts: opts, done: make(chan struct{})}
	s.cond.L = &s.mu
	if opts.Extended || role == Agent {
		s.window = opts.PeerWindow
	}
	if role == Agent && !opts.ZeroMask {
		var seed [32]byte
		cryptorand.Read(seed[:])
		s.out.keys = rand.NewChaCha8(seed)
	}
	if w := new(trywrite.Writer); w.Init(conn) {
		s.sock = w
	}
	return s
}

// Start begins to send and receive. first goes out before anything else,
// together with the first ping: it is the answer to the handshake, or nil.
func (s *Session) Start(first []byte) {
	s.mu.Lock()
	if s.started || s.err != nil {
		s.mu.Unlock()
		return
	}
	s.started = true
	s.heard = false
	s.heardAt = time.Now()
	s.out.first = first
	s.out.ping, s.out.pong = true, true
	s.tick = time.AfterFunc(s.opts.KeepAlive, s.onTick)
	s.wg.Go(s.readLoop)
	s.flushUnlock()
}

// Reject ends a session that was not started. answer is the answer to the
// handshake; it is lost if the conn does not take it at once.
func (s *Session) Reject(answer []byte) {
	s.mu.Lock()
	reject := !s.started && s.err == nil
	s.started = true
	s.mu.Unlock()
	if reject {
		s.conn.SetDeadline(time.Now().Add(farewellTime))
		s.conn.Write(answer) // nothing depends on it
	}
	s.end(errClosed)
}

// onTick looks for signs of life and gives one. The pong that nobody asked for
// keeps up a webhooktunnel of December 2018, which wants one within 20 s of
// the start and asks for none before.
func (s *Session) onTick() {
	s.mu.Lock()
	switch {
	case s.err != nil:
		s.mu.Unlock()
		return
	case !s.heard:
		s.mu.Unlock()
		s.end(ErrSilent)
		return
	}
	s.heard = false
	s.ticks++
	s.sweepLocked()
	s.out.ping, s.out.pong = true, true
	s.tick.Reset(s.opts.KeepAlive)
	s.flushUnlock()
}

// Probe asks the other side for a sign of life. It does not block.
func (s *Session) Probe() {
	s.mu.Lock()
	s.out.ping = s.out.ping || s.started && s.err == nil
	s.flushUnlock()
}

// Heard returns when something came from the other side last, or the session
// was started.
func (s *Session) Heard() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heardAt
}

// sweepLocked forgets streams that ended here long ago and of which the other
// side never said so.
func (s *Session) sweepLocked() {
	for _, st := range s.streams {
		if st.closed && st.finSent && s.ticks-st.closedAt >= 3 {
			st.finReceived = true
			s.forgetLocked(st)
		}
	}
}

// ErrSilent is why a session ends whose other side gave no sign of life.
var ErrSilent = errors.New("no sign of life from the other side")

// ErrSuperseded is why a session ends that a newer one of the same ID has
// replaced. Only servers with the extension tell.
var ErrSuperseded = errors.New("another session has taken over the ID")

var (
	errClosed = errors.New("closed here")
	errGone   = errors.New("the other side closed the connection")
)

// closeSuperseded is the code of the close frame that tells ErrSuperseded.
const closeSuperseded = 4409

// A CloseError is why a session ends whose other side sent a close frame.
type CloseError struct {
	Code   int // RFC 6455, section 7.4; 1005 if there was none
	Reason string
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("closed by the other side with code %d %q", e.Code, e.Reason)
}

// An endedError is what fails once the session has ended: it wraps
// tunnel.ErrClosed and why.
type endedError struct{ cause error }

func (e *endedError) Error() string   { return tunnel.ErrClosed.Error() + ": " + e.cause.Error() }
func (e *endedError) Unwrap() []error { return []error{tunnel.ErrClosed, e.cause} }

// Err returns why the session has ended, and nil if it has not. It wraps
// tunnel.ErrClosed, and ErrSilent, ErrSuperseded, a *CloseError, a
// *ProtocolError or an error of the conn where that is the reason.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// OnEnd registers f to be called when the session has ended, from any
// goroutine, and at once if it has. It must not block.
func (s *Session) OnEnd(f func()) {
	s.mu.Lock()
	ended := s.err != nil
	if !ended {
		s.onChange = append(s.onChange, f)
	}
	s.mu.Unlock()
	if ended {
		f()
	}
}

// Extended reports whether both sides speak the extension.
func (s *Session) Extended() bool { return s.opts.Extended }

// Streams returns the number of open streams.
func (s *Session) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

// LocalAddr returns this end's address.
func (s *Session) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// RemoteAddr returns the other end's address.
func (s *Session) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// SetPeerWindow says how many bytes the other side takes in on each stream
// without having given credit for them, if that turns out to be more than
// Options.PeerWindow. It counts for streams that are open too.
func (s *Session) SetPeerWindow(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	more := int64(n - s.window)
	if more <= 0 {
		return
	}
	s.window = n
	for _, st := range s.streams {
		st.credit += more
		st.wcond.Broadcast()
	}
}

// Close ends the session and its streams, and returns when nothing of it runs.
// The other side sees the end of the connection and no close frame, as it does
// with the originals. Calls after the first return nil.
func (s *Session) Close() error {
	s.end(errClosed)
	s.wg.Wait()
	return nil
}

// Supersede is Close for a session that a newer one has replaced. A side with
// the extension is told.
func (s *Session) Supersede() error {
	if s.opts.Extended {
		s.farewell(ErrSuperseded, closeSuperseded, ErrSuperseded.Error())
	} else {
		s.end(ErrSuperseded)
	}
	s.wg.Wait()
	return nil
}

// end ends the session at once. It does not wait.
func (s *Session) end(cause error) {
	if s.fail(cause) {
		s.conn.Close()
		s.tellEnd()
	}
}

// farewellTime is how long the other side may take to read a close frame.
const farewellTime = time.Second

// farewell ends the session with a close frame. Who reads the conn closes it,
// when the other side has or when farewellTime is over: a conn that is closed
// with bytes unread is reset, and the reset overtakes the frame.
func (s *Session) farewell(cause error, code int, reason string) {
	s.mu.Lock()
	s.closing = s.started && s.err == nil
	closing := s.closing
	s.mu.Unlock()
	if !closing {
		s.end(cause)
		return
	}
	if !s.fail(cause) {
		return
	}
	s.conn.SetDeadline(time.Now().Add(farewellTime))
	s.mu.Lock()
	for s.out.writing {
		s.cond.Wait()
	}
	cut := s.out.cut
	s.mu.Unlock()
	if !cut { // or it would be read as part of the message that was cut
		reason = reason[:min(len(reason), wsframe.MaxControl-2)]
		payload := append([]byte{byte(code >> 8), byte(code)}, reason...)
		s.conn.Write(s.out.appendMessage(nil, s.role, wsframe.Close, payload)) // nothing depends on it
	}
	if hc, ok := s.conn.(tunnel.HalfCloser); ok {
		hc.CloseWrite()
	}
	s.tellEnd()
}

// fail makes cause the reason why the session has ended. It reports false if it
// had ended before.
func (s *Session) fail(cause error) bool {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return false
	}
	s.err = &endedError{cause}
	err := s.err
	for _, t := range []*time.Timer{s.tick, s.soon} {
		if t != nil {
			t.Stop()
		}
	}
	streams := s.streams
	s.streams, s.acceptq = nil, nil
	for e := s.waiting.Front(); e != nil; e = s.waiting.Front() {
		close(s.waiting.Remove(e).(chan struct{}))
	}
	for _, st := range streams {
		st.failLocked(err)
	}
	s.out.drop()
	s.cond.Broadcast()
	close(s.done)
	s.mu.Unlock()
	for _, st := range streams {
		st.failRead(err, false)
	}
	return true
}

func (s *Session) tellEnd() {
	s.mu.Lock()
	all := slices.Clone(s.onChange)
	s.onChange = nil
	s.mu.Unlock()
	for _, f := range all {
		f()
	}
}

// waiter returns how to wait for the conn without a buffer, or nil.
func (s *Session) waiter() *readable.Waiter {
	rc, ok := readable.Of(s.conn)
	if !ok {
		return nil
	}
	w := new(readable.Waiter)
	w.Init(rc)
	return w
}
