package wsconn

import (
	cryptorand "crypto/rand"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

var (
	errPending = errors.New("wsconn: message before the last one was flushed")
	errCut     = errors.New("wsconn: a deadline cut an earlier message short")
)

// scratchSizes are the sizes of the buffers that messages are masked into, in
// bytes. A message that is longer than the last goes out in several writes.
var scratchSizes = [...]int{4 << 10, 18 << 10, 72 << 10, 264 << 10}

var scratch [len(scratchSizes)]sync.Pool

// A message is one that has not been handed to the kernel as a whole.
type message struct {
	out   []byte  // what is to be written next
	src   []byte  // payload that comes after out
	buf   *[]byte // pooled memory of out; nil if out is the caller's
	class int     // of buf, in scratchSizes
	key   uint32  // mask for src
	head  int     // size of the header
	sent  int     // bytes written, header included

	// rng yields the masking keys. It is a stream cipher with a secret seed,
	// so that an attacker who sees keys cannot tell the next one.
	rng *rand.ChaCha8
}

var messages = sync.Pool{New: func() any { return new(message) }}

// frame returns buf[off:] as a message of c, with the header in front of it.
func (c *Conn) frame(buf []byte, off int) *message {
	if c.role == Client && !c.zeroMask {
		return c.copied(buf[off:])
	}
	m := messages.Get().(*message)
	m.head = headerSize(c.role, len(buf)-off)
	m.out = buf[off-m.head:]
	putHeader(m.out, c.role, opBinary, len(buf)-off, 0)
	return m
}

// copied returns p as a message of c that is masked if needed, in memory of its
// own as far as that goes.
func (c *Conn) copied(p []byte) *message {
	m := messages.Get().(*message)
	if c.role == Client && !c.zeroMask {
		if m.rng == nil {
			var seed [32]byte
			cryptorand.Read(seed[:])
			m.rng = rand.NewChaCha8(seed)
		}
		m.key = uint32(m.rng.Uint64())
	}
	m.head = headerSize(c.role, len(p))
	for m.class = 0; m.class < len(scratchSizes)-1 && scratchSizes[m.class] < m.head+len(p); {
		m.class++
	}
	m.buf, _ = scratch[m.class].Get().(*[]byte)
	if m.buf == nil {
		b := make([]byte, scratchSizes[m.class])
		m.buf = &b
	}
	putHeader(*m.buf, c.role, opBinary, len(p), m.key)
	m.src = p
	m.fill(m.head)
	return m
}

// fill puts the next part of src into buf, behind the first start bytes.
func (m *message) fill(start int) {
	b := *m.buf
	k := min(len(b)-start, len(m.src))
	if m.key != 0 {
		m.key = xor(b[start:start+k], m.src[:k], m.key)
	} else {
		copy(b[start:], m.src[:k])
	}
	m.out, m.src = b[:start+k], m.src[k:]
}

// advance notes that n bytes of out were written, and reports whether that was
// the end of the message.
func (m *message) advance(n int) bool {
	m.out = m.out[n:]
	m.sent += n
	if len(m.out) > 0 {
		return false
	}
	if len(m.src) == 0 {
		return true
	}
	m.fill(0)
	return false
}

func (m *message) release() {
	if m.buf != nil {
		scratch[m.class].Put(m.buf)
	}
	*m = message{rng: m.rng}
	messages.Put(m)
}

// Headroom returns how many bytes in front of a message TryWriteMessage may
// overwrite.
func (c *Conn) Headroom() int { return maxHeader }

// TryWriteMessage sends buf[off:] as one message. It may overwrite
// buf[off-Headroom():off] and does not modify buf[off:]; off must be at least
// Headroom().
//
// It never blocks. done reports whether the whole message has been handed to
// the kernel. If not, and err is nil, the Conn refers to buf until the caller
// has called FlushMessage, which must be before the next message. On a conn
// that is not a socket done is always false. An error is final, and the Conn
// does not refer to buf any more.
func (c *Conn) TryWriteMessage(buf []byte, off int) (done bool, err error) {
	c.wmu.Lock()
	defer c.unlockWrite()
	if c.werr != nil {
		return false, c.werr
	}
	if c.pend != nil {
		return false, errPending
	}
	if c.raw != nil {
		c.pushLocked()
		if c.werr != nil {
			return false, c.werr
		}
	}
	c.pend = c.frame(buf, off)
	if c.raw == nil || c.front != nil {
		return false, nil
	}
	for {
		size := len(c.pend.out)
		n, err := c.raw.tryWrite(c.pend.out)
		if c.pend.advance(n) {
			c.dropLocked()
			return true, nil
		}
		if err != nil && !isTimeout(err) {
			c.werr = err
			c.dropLocked()
			return false, err
		}
		if n < size {
			return false, nil
		}
	}
}

// FlushMessage blocks until the message that TryWriteMessage left is handed to
// the kernel; if there is none it returns nil. After a timeout it can be called
// again; any other error is final. On a conn that is not a socket the message
// is one Write, unless it is masked and larger than 256 KiB.
func (c *Conn) FlushMessage() error {
	c.wmu.Lock()
	defer c.unlockWrite()
	if c.werr != nil {
		return c.werr
	}
	if c.pend == nil {
		return nil
	}
	err := c.flushLocked()
	if c.werr != nil {
		c.dropLocked()
	}
	return err
}

// Write sends p as one message and blocks until it is handed to the kernel. It
// does not modify p. An empty p is not sent.
func (c *Conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.unlockWrite()
	if c.werr != nil {
		return 0, c.werr
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.pend != nil {
		if err := c.flushLocked(); err != nil {
			if c.werr != nil {
				c.dropLocked()
			}
			return 0, err
		}
	}
	c.pend = c.copied(p)
	err := c.flushLocked()
	if err == nil {
		return len(p), nil
	}
	n := max(0, c.pend.sent-c.pend.head)
	if c.pend.sent > 0 && c.werr == nil {
		c.werr = errCut
	}
	c.dropLocked()
	return n, err
}

// flushLocked writes what comes before the pending message and the message
// itself. After an error pend is still there, with werr set unless the error is
// a timeout.
func (c *Conn) flushLocked() error {
	if c.pend.sent == 0 {
		if err := c.flushFrontLocked(); err != nil {
			return err
		}
	}
	for {
		n, err := c.writeAll(c.pend.out)
		if c.pend.advance(n) {
			c.dropLocked()
			return nil
		}
		if err != nil {
			if !isTimeout(err) {
				c.werr = err
			}
			return err
		}
	}
}

// writeAll writes b and waits.
func (c *Conn) writeAll(b []byte) (int, error) {
	if c.raw != nil {
		return c.raw.writeAll(b)
	}
	return c.c.Write(b)
}

// dropLocked lets go of the pending message, and of the answer before it if
// nothing can be sent any more.
func (c *Conn) dropLocked() {
	if c.pend != nil {
		c.pend.release()
		c.pend = nil
	}
	if c.front != nil && c.werr != nil {
		c.front.release()
		c.front = nil
	}
}

// tryWrite writes as much of b as takes no waiting.
func (c *Conn) tryWrite(b []byte) (int, error) {
	if c.raw != nil {
		n, err := c.raw.tryWrite(b)
		if err != nil && isTimeout(err) {
			err = nil
		}
		return n, err
	}
	// A socket that has room takes a small write at once, but one whose
	// deadline has passed would fail for good under TLS.
	if d := c.deadline.Load(); d != 0 && d <= time.Now().UnixNano() {
		return 0, nil
	}
	if s := socket(c.c); s == c.c || !writable(s) {
		return 0, nil
	}
	return c.c.Write(b)
}
