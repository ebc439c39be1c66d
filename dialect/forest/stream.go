package forest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"adit/tunnel"
)

// maxFrameOld bounds a data frame to an original, whose pings have 10 s.
const maxFrameOld = 32 << 10

// drainTime is how long a peer may keep a direction open that nobody reads.
const drainTime = 30 * time.Second

// holdBack is how long a stream to an original agent has to be silent before
// the end of the visitor's direction, which the original takes for the end of
// both, is passed on while an answer may be on its way.
const holdBack = time.Second

// A stream is one stream of a session, with ends that the peer understands.
type stream struct {
	st   *yamux.Stream
	conn *muxConn
	ours bool   // the peer is of this package: features.halfClose
	hold bool   // the end of the direction to the peer is held back, see holdBack
	wg   *group // of the session's goroutines

	readBy, writeBy atomic.Int64 // deadlines, in UnixNano; 0 means none
	readMu          sync.Mutex   // held by Read

	mu       sync.Mutex // guards the fields below
	readEnd  bool       // Read returned io.EOF
	writeEnd bool       // CloseWrite was called
	closed   bool
	asked    bool        // the last bytes went to the peer
	last     time.Time   // bytes passed, either way
	finTimer *time.Timer // sends the end that is held back
	onClose  func()
}

var (
	_ net.Conn          = (*stream)(nil)
	_ tunnel.HalfCloser = (*stream)(nil)
	_ tunnel.Resetter   = (*stream)(nil)
)

func newStream(st *yamux.Stream, conn *muxConn, f features, wg *group, onClose func()) *stream {
	s := &stream{st: st, conn: conn, wg: wg, ours: f.halfClose, last: time.Now(), onClose: onClose}
	return s
}

// maxFrame returns the most bytes of a data frame.
func (s *stream) maxFrame() int {
	if s.ours {
		return int(s.conn.frame.Load())
	}
	return maxFrameOld
}

func (s *stream) Read(p []byte) (int, error) {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	if err := s.usable(&s.readBy); err != nil || len(p) == 0 {
		return 0, err
	}
	n, err := s.st.Read(p)
	if n > 0 && s.ours {
		return n, nil // nothing below is about it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 {
		s.asked, s.last = false, time.Now()
	}
	switch {
	case err != io.EOF:
	case s.closed:
		err = net.ErrClosed
	case s.st.Session().IsClosed():
		err = tunnel.ErrClosed // the library has a clean end for that
	default:
		s.readEnd = true
	}
	return n, s.errorOf(err)
}

// usable returns why an operation with a deadline cannot begin.
func (s *stream) usable(by *atomic.Int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := by.Load(); s.closed || t != 0 && time.Now().UnixNano() >= t {
		return s.errorOf(yamux.ErrTimeout)
	}
	return nil
}

func (s *stream) Write(p []byte) (total int, err error) {
	if err := s.usable(&s.writeBy); err != nil {
		return 0, err
	}
	for len(p) > 0 {
		n, err := s.st.Write(p[:min(len(p), s.maxFrame())])
		total += n
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			return total, s.errorOf(err)
		}
		p = p[n:]
	}
	if !s.ours {
		s.mu.Lock()
		s.asked, s.last = true, time.Now()
		s.mu.Unlock()
	}
	return total, nil
}

// errorOf returns err as other conns have it. s.mu is held.
func (s *stream) errorOf(err error) error {
	switch {
	case err == nil || err == io.EOF:
		return err
	case s.closed:
		return net.ErrClosed
	case errors.Is(err, yamux.ErrTimeout):
		return os.ErrDeadlineExceeded
	case errors.Is(err, yamux.ErrConnectionReset):
		return &tunnel.ResetError{Code: tunnel.ResetUpstream}
	case errors.Is(err, yamux.ErrSessionShutdown):
		return tunnel.ErrClosed
	}
	return err
}

// CloseWrite ends the direction to the peer. To an original that is the end of
// both; so while an answer may be on its way it waits until the stream has been
// idle.
func (s *stream) CloseWrite() error {
	s.mu.Lock()
	if s.writeEnd || s.closed {
		s.mu.Unlock()
		return nil
	}
	s.writeEnd = true
	if s.hold && s.asked && !s.readEnd {
		s.finTimer = time.AfterFunc(holdBack, s.finWhenIdle)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	return s.st.Close()
}

func (s *stream) finWhenIdle() {
	s.mu.Lock()
	idle := time.Since(s.last)
	if s.closed {
		s.mu.Unlock()
		return
	}
	if idle < holdBack {
		s.finTimer.Reset(holdBack - idle)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.st.Close()
}

// Close ends both directions. What was written still arrives. A peer of this
// package is told with a reset if it goes on to send.
func (s *stream) Close() error { return s.close(false) }

// Reset ends both directions with an error. Its code is not transmitted.
func (s *stream) Reset(tunnel.ResetCode, string) error { return s.close(true) }

func (s *stream) close(abort bool) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	clean := s.readEnd && s.writeEnd
	drain := s.ours && !abort && !s.readEnd
	if s.finTimer != nil {
		s.finTimer.Stop()
	}
	s.mu.Unlock()
	err := s.st.Close()
	if s.ours && abort && !clean {
		// The far side answers a reset with one, which ends what is left here.
		s.conn.reset(s.st.StreamID())
	}
	s.st.SetDeadline(time.Unix(1, 0))
	if drain {
		s.wg.Go(s.drain)
	}
	if s.onClose != nil {
		s.onClose()
	}
	return err
}

// drain waits for the far side to end its direction too, and resets the stream
// if it sends instead, or takes too long.
func (s *stream) drain() {
	s.readMu.Lock() // a Read of before has noticed
	defer s.readMu.Unlock()
	s.st.SetReadDeadline(time.Now().Add(drainTime))
	var b [1]byte
	if _, err := s.st.Read(b[:]); err != io.EOF {
		s.conn.reset(s.st.StreamID())
	}
}

func (s *stream) LocalAddr() net.Addr  { return s.st.LocalAddr() }
func (s *stream) RemoteAddr() net.Addr { return s.st.RemoteAddr() }

func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

func (s *stream) SetReadDeadline(t time.Time) error {
	return s.setDeadline(&s.readBy, t, s.st.SetReadDeadline)
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	return s.setDeadline(&s.writeBy, t, s.st.SetWriteDeadline)
}

func (s *stream) setDeadline(by *atomic.Int64, t time.Time, set func(time.Time) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	nano := int64(0)
	if !t.IsZero() {
		nano = t.UnixNano()
	}
	by.Store(nano)
	return set(t)
}

// whole hides CloseWrite, so that a relay takes the end of the other direction
// for that of both.
type whole struct{ net.Conn }
