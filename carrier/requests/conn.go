package requests

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"adit/internal/deadline"
)

// A core is what both ends of a conn have in common: the methods of a net.Conn
// on two sequences of bytes.
type core struct {
	local, remote net.Addr
	stir          func() // there is something new to send, or the conn has ended; called with mu held

	mu       sync.Mutex // guards the fields below
	readable sync.Cond
	writable sync.Cond
	out      outbox
	in       inbox
	flying   int    // bytes that are kept outside of out until the other side has them
	window   window // of out and flying
	full     func() bool
	fin      uint64 // where the other side's sequence ends, if finite
	finite   bool
	closed   bool  // by this side
	err      error // why it broke
	rd, wd   deadline.Deadline
	stash    []byte // of a message that did not fit
}

func (c *core) init(local, remote net.Addr) {
	c.local, c.remote = local, remote
	c.readable.L, c.writable.L = &c.mu, &c.mu
	c.window = newWindow()
}

// LocalAddr returns this end's address, as far as it is known.
func (c *core) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the other end's address, as far as it is known.
func (c *core) RemoteAddr() net.Addr { return c.remote }

// endedLocked returns why nothing more is sent.
func (c *core) endedLocked() error {
	if c.closed {
		return net.ErrClosed
	}
	return c.err
}

// waitReadLocked waits for bytes to read.
func (c *core) waitReadLocked() error {
	for {
		switch err := c.rd.Err(); {
		case c.closed:
			return net.ErrClosed
		case err != nil:
			return err
		case len(c.in.ready) > 0:
			return nil
		case c.finite && c.in.next >= c.fin:
			return io.EOF
		case c.err != nil:
			return c.err
		}
		c.readable.Wait()
	}
}

// Read returns bytes in the order in which they were written, and io.EOF when
// the other side has closed the conn.
func (c *core) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) == 0 {
		return 0, c.endedLocked()
	}
	if err := c.waitReadLocked(); err != nil {
		return 0, err
	}
	return c.in.read(p), nil
}

// WaitRead returns when Read would not block, or fail.
func (c *core) WaitRead() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.waitReadLocked()
	if err == io.EOF {
		return nil
	}
	return err
}

// roomLocked reports whether more may be written.
func (c *core) roomLocked() bool {
	if int(c.out.end-c.out.base)+c.flying >= c.window.size || c.full != nil && c.full() {
		c.window.full = true
		return false
	}
	return true
}

func (c *core) waitRoomLocked() error {
	for {
		if err := c.endedLocked(); err != nil {
			return err
		}
		if err := c.wd.Err(); err != nil {
			return err
		}
		if c.roomLocked() {
			return nil
		}
		c.writable.Wait()
	}
}

// appendLocked takes p, and reports it to who sends.
func (c *core) appendLocked(p []byte) {
	c.out.append(p)
	c.window.sent(c.out.end)
	c.stir()
}

// Write takes p. It waits while too much is on its way.
func (c *core) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.flushLocked(); err != nil {
		return 0, err
	}
	for first := true; first || n < len(p); first = false {
		if err := c.waitRoomLocked(); err != nil {
			return n, err
		}
		part := p[n:min(len(p), n+frameData)]
		c.appendLocked(part)
		n += len(part)
	}
	return n, nil
}

// Headroom is what TryWriteMessage overwrites before a message.
func (c *core) Headroom() int { return 0 }

// TryWriteMessage is Write of buf[off:], but instead of waiting it leaves that
// to FlushMessage and reports false; buf must not change until then.
func (c *core) TryWriteMessage(buf []byte, off int) (done bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.endedLocked(); err != nil {
		return false, err
	}
	if len(c.stash) > 0 || !c.roomLocked() {
		if len(c.stash) > 0 {
			return false, errors.New("requests: FlushMessage was not called")
		}
		c.stash = buf[off:]
		return false, nil
	}
	c.appendLocked(buf[off:])
	return true, nil
}

// FlushMessage waits until the message of TryWriteMessage is written.
func (c *core) FlushMessage() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushLocked()
}

func (c *core) flushLocked() error {
	if len(c.stash) == 0 {
		return nil
	}
	if err := c.waitRoomLocked(); err != nil {
		c.stash = nil
		return err
	}
	c.appendLocked(c.stash)
	c.stash = nil
	return nil
}

// SetDeadline sets both deadlines.
func (c *core) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline bounds present and later calls of Read.
func (c *core) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.rd.Set(t, &c.readable)
	}
	return nil
}

// SetWriteDeadline bounds present and later calls of Write.
func (c *core) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.wd.Set(t, &c.writable)
	}
	return nil
}

// tookLocked takes in a frame's data, or a request's. It reports false if there
// is no room.
func (c *core) tookLocked(p piece) bool {
	before := c.in.next
	ok := c.in.add(p)
	if c.in.next != before {
		c.readable.Broadcast()
	}
	return ok
}

// ackedLocked takes note that the other side has everything before pos.
func (c *core) ackedLocked(pos uint64) error {
	if pos > c.out.end {
		return fmt.Errorf("requests: the other side has %d bytes of %d", pos, c.out.end)
	}
	c.out.trim(pos)
	c.window.arrived(pos)
	c.writable.Broadcast()
	return nil
}

// finishedLocked takes note that the other side has closed, at position pos.
func (c *core) finishedLocked(pos uint64) {
	if !c.finite {
		c.fin, c.finite = pos, true
		c.readable.Broadcast()
	}
}

// breakLocked ends the conn for the reason err; what has arrived can still be
// read.
func (c *core) breakLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = fmt.Errorf("requests: %w", err)
	c.readable.Broadcast()
	c.writable.Broadcast()
	c.stir()
}

// closeLocked is what Close of either side begins with. It reports whether it
// is the first.
func (c *core) closeLocked() bool {
	if c.closed {
		return false
	}
	c.closed = true
	c.rd.Stop()
	c.wd.Stop()
	c.in.drop()
	c.readable.Broadcast()
	c.writable.Broadcast()
	c.stir()
	return true
}
