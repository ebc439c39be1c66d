package wsconn

import (
	"errors"
	"io"
	"net"
	"syscall"

	"adit/internal/undertls"
)

const (
	// bulk is the rest of a frame, in bytes, from which on a read stops at
	// the frame's end. Below it, one read takes as many frames as p has room
	// for, which saves more system calls than moving the payload together
	// costs.
	bulk = 16 << 10

	// tiny is the length of p below which a header is read into ahead.
	tiny = 32
)

// Read reads payload into p. It does not keep message boundaries: it returns
// what is there, from one message or several, and blocks only if that is
// nothing. It may use all of p as scratch space.
//
// The error is io.EOF if the other end closed normally or between two
// messages, io.ErrUnexpectedEOF if it closed within one, a *CloseError, a
// *ProtocolError, or that of the underlying conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.woken = false
	for empty := 0; ; {
		if n := c.drain(p); n > 0 {
			return n, nil
		}
		if c.rerr != nil {
			return 0, c.rerr
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, took, err := c.fill(p)
		switch {
		case n > 0:
			return n, nil
		case err != nil:
			return 0, err
		case took > 0:
			empty = 0
		default:
			if empty++; empty == 100 {
				return 0, io.ErrNoProgress
			}
		}
	}
}

// drain takes payload from the bytes that are held already.
func (c *Conn) drain(p []byte) int {
	if len(c.buffered) > 0 {
		held := c.buffered
		n, used := c.decode(p, held)
		c.buffered = held[used:]
		if c.rem == 0 || used == len(held) {
			// What is left is a part of a header, or nothing.
			c.nahead = uint8(copy(c.ahead[:], c.buffered))
			c.buffered = nil
		}
		return n
	}
	if c.nahead > 0 {
		held := c.ahead[:c.nahead]
		n, used := c.decode(p, held)
		c.nahead = uint8(copy(held, held[used:]))
		return n
	}
	return 0
}

// fill reads once from the conn. Its result is n bytes of payload in p, out of
// took bytes. It is called with nothing held but a part of a header.
func (c *Conn) fill(p []byte) (n, took int, err error) {
	if len(p) < tiny && c.rem == 0 {
		took, err = c.from.Read(c.ahead[c.nahead:])
		c.nahead += uint8(took)
		n = c.drain(p)
	} else {
		// Everything goes straight into p, where decode moves the payload
		// together over the headers.
		head := copy(p, c.ahead[:c.nahead])
		limit := len(p)
		if c.rem >= bulk && int64(limit) > c.rem+int64(c.lastHead) {
			// The next header comes along, which is probably of the same
			// size, so that the next read finds its payload in place too.
			limit = int(c.rem) + int(c.lastHead)
		}
		took, err = c.from.Read(p[head:limit])
		if took > 0 {
			src := p[:head+took]
			var used int
			n, used = c.decode(p, src)
			c.nahead = uint8(copy(c.ahead[:], src[used:]))
		}
	}
	if took > 0 || err == nil {
		return n, took, nil // an error with bytes comes again without them
	}
	return 0, 0, c.readFailed(err)
}

// readFailed returns what err from the conn means to the caller, and makes it
// final unless it is a timeout.
func (c *Conn) readFailed(err error) error {
	if isTimeout(err) {
		return err
	}
	if errors.Is(err, io.EOF) && (c.rem > 0 || c.fragment || c.in != nil || c.nahead > 0) {
		err = io.ErrUnexpectedEOF
	}
	return c.fail(err)
}

// decode moves payload from src to dst and returns how much that was and how
// many bytes of src it used. It stops when dst is full, at a header that is
// not whole, or with rerr set. dst may be src's own memory.
func (c *Conn) decode(dst, src []byte) (n, used int) {
	for c.rerr == nil {
		rest := src[used:]
		switch {
		case c.in != nil:
			used += c.in.take(rest)
			if !c.in.whole() {
				return n, used
			}
			c.answer()
		case c.rem > 0:
			k := int(min(c.rem, int64(len(rest)), int64(len(dst)-n)))
			if k == 0 {
				return n, used
			}
			to := dst[n : n+k]
			copy(to, rest)
			if c.key != 0 {
				c.key = xor(to, to, c.key)
			}
			c.rem -= int64(k)
			n, used = n+k, used+k
		default:
			h, k, bad := c.parse(rest)
			if bad != nil {
				c.fail(bad)
				c.queue(newClose(c.role, bad.Code, bad.Reason))
				return n, len(src)
			}
			if k == 0 {
				return n, used
			}
			used += k
			if h.op >= opClose {
				c.in = newControl(h)
				continue
			}
			c.rem, c.key, c.fragment, c.lastHead = h.size, h.key, !h.fin, uint8(k)
		}
	}
	return n, len(src)
}

// fail makes err the result of all later reads, and forgets what is held.
func (c *Conn) fail(err error) error {
	c.rerr = err
	c.rem, c.nahead, c.buffered = 0, 0, nil
	if c.in != nil {
		c.in.release()
		c.in = nil
	}
	return err
}

// CanWait reports whether WaitRead waits at the socket, and so costs no more
// than a read that would block.
func (c *Conn) CanWait() bool { return c.raw != nil }

// WaitRead blocks until Read has bytes to look at, and holds no buffer while it
// waits. Read may block nevertheless when these are a part of a header, or
// frames without payload. Its error is one that Read would return.
//
// It is meant for an idle conn: where the underlying conn is not a socket it
// reads a byte, which the next Read may return alone.
func (c *Conn) WaitRead() error {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.rerr != nil {
		return c.rerr
	}
	if c.holdsLocked() {
		return nil
	}
	if c.raw != nil {
		return c.raw.waitRead()
	}
	return c.peekLocked()
}

// peekLocked reads a byte into ahead.
func (c *Conn) peekLocked() error {
	n, err := c.c.Read(c.ahead[c.nahead : c.nahead+1])
	if n > 0 {
		c.nahead++
		c.woken = true
		return nil
	}
	if err != nil {
		return c.readFailed(err)
	}
	return nil
}

// Park is like WaitRead without a goroutine that waits: it has f called, in one
// of its own and once, when Read has bytes to look at or the Conn is closed. It
// reports false, and f is not called, where that cannot be, or need not because
// Read has bytes already, or an error. Nobody reads before f is called. Read
// deadlines do not count meanwhile.
func (c *Conn) Park(f func()) bool {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.rerr != nil || c.holdsLocked() || !c.parkLocked(f) {
		return false
	}
	if c.closed.Load() {
		c.unpark() // Close may not have seen it
	}
	return true
}

func (c *Conn) parkLocked(f func()) bool {
	switch {
	case c.raw != nil:
		return c.raw.park(f)
	case c.under != nil:
		c.under.SetTry(true)
		err := c.peekLocked()
		c.under.SetTry(false)
		return err == undertls.ErrNothing && c.under.Park(f)
	}
	return false
}

// unpark has what was parked go on.
func (c *Conn) unpark() {
	switch {
	case c.raw != nil:
		c.raw.unpark()
	case c.under != nil:
		c.under.Unpark()
	}
}

// holdsLocked reports whether Read has bytes to look at without the conn below.
func (c *Conn) holdsLocked() bool {
	return c.woken || len(c.buffered) > 0 || c.rem > 0 && c.nahead > 0
}

// isTimeout reports whether err is that of a deadline and leaves the conn
// usable. A peer that went silent is a timeout too, but one that ends the conn.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}
