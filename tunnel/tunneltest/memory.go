// Package tunneltest has what tests of tunnels and of their users share: a
// tunnel in memory, and the suite that every dialect's tunnel passes.
package tunneltest

import (
	"context"
	"fmt"
	"net"
	"sync"

	"adit/internal/memnet"
	"adit/tunnel"
)

// backlog is how many streams wait for the agent's Accept; more are refused
// with tunnel.RefuseBusy.
const backlog = 256

// A Memory is a tunnel whose far side is in the same process. It opens early,
// and its streams are HalfClosers and Resetters and have
//
//	Quiet() bool
//
// which reports whether they are open both ways with nothing to read.
type Memory struct {
	id       tunnel.ID
	incoming chan *incoming
	done     chan struct{}

	mu      sync.Mutex // guards the fields below
	closed  bool
	streams map[*stream]struct{} // open at the opener's end
	notify  []func()             // see OnAvailability
}

var (
	_ tunnel.Tunnel       = (*Memory)(nil)
	_ tunnel.EarlyOpener  = (*Memory)(nil)
	_ tunnel.Availability = (*Memory)(nil)
	_ tunnel.HalfCloser   = (*stream)(nil)
	_ tunnel.Resetter     = (*stream)(nil)
	_ tunnel.Incoming     = (*incoming)(nil)
)

// NewMemory returns a tunnel and its agent's end, a listener whose conns are
// tunnel.Incoming, HalfClosers and Resetters. Closing either ends both.
func NewMemory(id tunnel.ID) (*Memory, net.Listener) {
	m := &Memory{
		id:       id,
		incoming: make(chan *incoming, backlog),
		done:     make(chan struct{}),
		streams:  make(map[*stream]struct{}),
	}
	return m, (*listener)(m)
}

// ID returns the ID that was given to NewMemory.
func (m *Memory) ID() tunnel.ID { return m.id }

// Done is closed by Close.
func (m *Memory) Done() <-chan struct{} { return m.done }

// Close ends the tunnel: Read and Write of its streams fail on both sides with
// an error that wraps tunnel.ErrClosed.
func (m *Memory) Close() error {
	m.mu.Lock()
	streams := m.streams
	first := !m.closed
	m.closed, m.streams = true, nil
	notify := m.notify
	m.mu.Unlock()
	if first {
		close(m.done)
		for s := range streams {
			s.far.Conn.Abort(fmt.Errorf("stream: %w", tunnel.ErrClosed))
		}
		for _, f := range notify {
			f()
		}
	}
	return nil
}

// Available reports whether the tunnel lives.
func (m *Memory) Available() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.closed
}

// OnAvailability registers f to be called when the tunnel has ended.
func (m *Memory) OnAvailability(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notify = append(m.notify[:len(m.notify):len(m.notify)], f)
}

// OpenStream opens a stream and waits for the agent's answer.
func (m *Memory) OpenStream(ctx context.Context, info tunnel.StreamInfo) (net.Conn, error) {
	s, err := m.open(info)
	if err != nil {
		return nil, err
	}
	select {
	case <-s.far.answered:
		if err := s.far.refusal(); err != nil {
			s.Close()
			return nil, err
		}
		return s, nil
	case <-ctx.Done():
		s.Reset(tunnel.ResetCancelled, "")
		return nil, ctx.Err()
	case <-m.done:
		s.Close()
		return nil, fmt.Errorf("open stream: %w", tunnel.ErrClosed)
	}
}

// OpenEarly opens a stream without waiting.
func (m *Memory) OpenEarly(info tunnel.StreamInfo) (net.Conn, error) {
	s, err := m.open(info)
	if err != nil {
		return nil, err // not s, which would be a non-nil net.Conn
	}
	return s, nil
}

func (m *Memory) open(info tunnel.StreamInfo) (*stream, error) {
	near, far := memnet.Pipe()
	s := &stream{Conn: near, m: m}
	s.far = &incoming{Conn: far, info: info, answered: make(chan struct{})}

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("open stream: %w", tunnel.ErrClosed)
	}
	select { // has a default: nothing waits under the lock
	case m.incoming <- s.far:
		m.streams[s] = struct{}{}
		return s, nil
	default:
		return nil, &tunnel.RefusedError{Code: tunnel.RefuseBusy, Reason: "the agent accepts no streams"}
	}
}

// A listener is the agent's end of a Memory.
type listener Memory

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.incoming:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error   { return (*Memory)(l).Close() }
func (l *listener) Addr() net.Addr { return memnet.Addr(l.id) }

// A stream is the opener's end.
type stream struct {
	*memnet.Conn
	m   *Memory
	far *incoming
}

func (s *stream) Close() error {
	s.forget()
	return s.Conn.Close()
}

func (s *stream) Reset(code tunnel.ResetCode, reason string) error {
	s.forget()
	s.Conn.Abort(&tunnel.ResetError{Code: code, Reason: reason})
	return nil
}

func (s *stream) forget() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	delete(s.m.streams, s)
}

// An incoming is the agent's end.
type incoming struct {
	*memnet.Conn
	info     tunnel.StreamInfo
	answered chan struct{} // closed by the answer

	mu      sync.Mutex // guards the fields below
	done    bool
	refused *tunnel.RefusedError
}

func (c *incoming) Info() tunnel.StreamInfo { return c.info }

func (c *incoming) Accept() error {
	c.answer(nil)
	return nil
}

func (c *incoming) Refuse(code tunnel.RefuseCode, reason string) error {
	err := &tunnel.RefusedError{Code: code, Reason: reason[:min(len(reason), 256)]}
	if !c.answer(err) {
		return fmt.Errorf("refuse stream: it was answered before")
	}
	c.Conn.Abort(err)
	return nil
}

func (c *incoming) Write(b []byte) (int, error) {
	c.answer(nil)
	return c.Conn.Write(b)
}

func (c *incoming) Close() error {
	c.Refuse(tunnel.RefuseInternal, "the agent closed the stream without an answer")
	return c.Conn.Close()
}

func (c *incoming) Reset(code tunnel.ResetCode, reason string) error {
	c.answer(nil)
	c.Conn.Abort(&tunnel.ResetError{Code: code, Reason: reason})
	return nil
}

// answer reports whether it was the first answer.
func (c *incoming) answer(refused *tunnel.RefusedError) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return false
	}
	c.done, c.refused = true, refused
	close(c.answered)
	return true
}

func (c *incoming) refusal() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused != nil {
		return c.refused
	}
	return nil
}
