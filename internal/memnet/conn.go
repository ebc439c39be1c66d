// Package memnet has conns and listeners that live in memory, for tests.
//
//	a, b := memnet.Pipe()
//	go io.Copy(a, b)
//
// Unlike those of net.Pipe, its conns have a buffer and half-close, as TCP has:
// a Write returns once its bytes are in the buffer.
package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// BufferSize is how many bytes one direction of a conn holds before Write
// blocks.
const BufferSize = 64 << 10

// A Conn is one end of a pair. Its methods are safe for concurrent use.
type Conn struct {
	in, out       *half
	local, remote Addr
}

var _ net.Conn = (*Conn)(nil)

// Pipe returns the two ends of a new conn.
func Pipe() (*Conn, *Conn) {
	return pair("pipe", "pipe")
}

func pair(a, b Addr) (*Conn, *Conn) {
	ab, ba := newHalf(), newHalf()
	return &Conn{in: ba, out: ab, local: a, remote: b}, &Conn{in: ab, out: ba, local: b, remote: a}
}

// Read waits for bytes and returns what there is, io.EOF after the far end has
// closed or half-closed and everything is read.
func (c *Conn) Read(b []byte) (int, error) { return c.in.read(b) }

// Write blocks while the buffer is full. It fails with io.ErrClosedPipe once
// the far end is closed.
func (c *Conn) Write(b []byte) (int, error) { return c.out.write(b) }

// CloseWrite ends the direction from this end to the far one, which reads
// io.EOF after what was written.
func (c *Conn) CloseWrite() error {
	c.out.update(func(h *half) {
		h.ended = true
		if h.werr == nil {
			h.werr = net.ErrClosed
		}
	})
	return nil
}

// Close ends both directions. The far end can still read what was written.
func (c *Conn) Close() error {
	c.out.update(func(h *half) { h.ended, h.werr = true, net.ErrClosed })
	c.in.update(func(h *half) {
		h.rerr = net.ErrClosed
		if h.werr == nil {
			h.werr = io.ErrClosedPipe
		}
		h.drop()
	})
	return nil
}

// Abort closes this end; what was written and not yet read is lost, and the far
// end's Read and Write return err. An end that is closed already stays so.
func (c *Conn) Abort(err error) {
	c.out.update(func(h *half) {
		h.ended, h.werr = true, net.ErrClosed
		if h.rerr == nil {
			h.rerr = err
			h.drop()
		}
	})
	c.in.update(func(h *half) {
		h.rerr = net.ErrClosed
		if h.werr == nil || h.werr == io.ErrClosedPipe {
			h.werr = err
		}
		h.drop()
	})
}

// Quiet reports whether the conn is open both ways with nothing to read.
func (c *Conn) Quiet() bool {
	c.in.mu.Lock()
	quiet := c.in.rerr == nil && !c.in.ended && len(c.in.buf) == c.in.off
	c.in.mu.Unlock()
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return quiet && c.out.werr == nil
}

// LocalAddr returns this end's address.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the far end's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.rdead, t)
	c.out.setDeadline(&c.out.wdead, t)
	return nil
}

// SetReadDeadline bounds present and future calls of Read.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.rdead, t)
	return nil
}

// SetWriteDeadline bounds present and future calls of Write.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.wdead, t)
	return nil
}

// An Addr is the name of one end.
type Addr string

// Network returns "mem".
func (Addr) Network() string { return "mem" }

func (a Addr) String() string { return string(a) }

// A half is one direction of a conn.
type half struct {
	mu      sync.Mutex // guards the fields below
	changed sync.Cond  // signalled after each change
	buf     []byte     // buf[off:] is written and not yet read
	off     int
	ended   bool  // the writer will write no more
	rerr    error // what Read returns before anything else
	werr    error // what Write returns before anything else
	rdead   deadline
	wdead   deadline
}

type deadline struct {
	t     time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.t.IsZero() && !time.Now().Before(d.t) }

func newHalf() *half {
	h := new(half)
	h.changed.L = &h.mu
	return h
}

func (h *half) update(f func(*half)) {
	h.mu.Lock()
	f(h)
	h.mu.Unlock()
	h.changed.Broadcast()
}

func (h *half) drop() { h.buf, h.off = nil, 0 }

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.rerr != nil:
			return 0, h.rerr
		case h.rdead.passed():
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case h.off < len(h.buf):
			n := copy(b, h.buf[h.off:])
			h.off += n
			if h.off == len(h.buf) {
				h.buf, h.off = h.buf[:0], 0
			}
			h.changed.Broadcast()
			return n, nil
		case h.ended:
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

func (h *half) write(b []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.werr != nil:
			return n, h.werr
		case h.wdead.passed():
			return n, os.ErrDeadlineExceeded
		case len(b) == 0:
			return n, nil
		}
		if room := BufferSize - (len(h.buf) - h.off); room > 0 {
			if h.off > 0 && len(h.buf) == cap(h.buf) {
				h.buf, h.off = h.buf[:copy(h.buf, h.buf[h.off:])], 0
			}
			m := min(room, len(b))
			h.buf = append(h.buf, b[:m]...)
			b, n = b[m:], n+m
			h.changed.Broadcast()
			continue
		}
		h.changed.Wait()
	}
}

func (h *half) setDeadline(d *deadline, t time.Time) {
	h.update(func(h *half) {
		if d.timer != nil {
			d.timer.Stop()
			d.timer = nil
		}
		d.t = t
		if wait := time.Until(t); !t.IsZero() && wait > 0 {
			d.timer = time.AfterFunc(wait, func() { h.update(func(*half) {}) })
		}
	})
}
