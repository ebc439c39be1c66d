// Package wsconn carries bytes as the payload of WebSocket binary messages
// (RFC 6455, section 5), after somebody else's handshake. Its Conn is a
// net.Conn; for a session that batches its own writes it also sends a message
// without ever blocking and without copying it, and waits for bytes without
// holding a buffer.
//
//	ws := wsconn.New(conn, wsconn.Server, wsconn.Options{})
//	defer ws.Close()
//	io.Copy(ws, ws)
//
// An idle Conn holds no buffer, and neither direction allocates per message.
package wsconn

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/undertls"
)

// A Role is the side of the WebSocket handshake that a Conn was on, which
// decides who masks.
type Role uint8

const (
	Server Role = iota // receives masked frames, sends plain ones
	Client             // sends masked frames, receives plain ones
)

// DefaultMaxFrame is the bound on a received frame's payload, in bytes, if
// Options has none. A frame is never held in memory as a whole.
const DefaultMaxFrame = 16 << 20

// Options configures a Conn. The zero value is ready to use.
type Options struct {
	// Buffered are bytes that were read from the conn already, after the
	// handshake's end. The Conn keeps the slice until they are consumed and
	// does not modify it.
	Buffered []byte

	// ZeroMask makes a Client mask with the key 0, which leaves the payload as
	// it is and saves a copy. RFC 6455, section 5.3, demands a key that nobody
	// can foresee, lest bytes of an attacker's choice look like HTTP to
	// something between that does not know WebSocket. So this is for where
	// nothing is between that could read them, and the server has agreed.
	ZeroMask bool

	// MaxFrame is the largest payload of one frame, in bytes, that the other
	// end may send; 0 means DefaultMaxFrame.
	MaxFrame int64
}

// A Conn is a net.Conn whose bytes travel as payload of binary messages.
//
// All methods may be called concurrently, but only one goroutine at a time may
// use TryWriteMessage and FlushMessage. Deadlines are those of the underlying
// conn. A deadline that passes during a Read, WaitRead or FlushMessage does no
// harm; one that cuts a Write short within its message makes the Conn unusable
// for writing, because the rest of the message is lost.
type Conn struct {
	c        net.Conn
	raw      *rawConn         // nil unless c is a socket that can be written to without blocking
	from     io.Reader        // c or raw
	under    *undertls.Socket // below c; nil unless c does TLS over one
	role     Role
	zeroMask bool
	closed   atomic.Bool
	maxFrame int64

	rmu      sync.Mutex // guards the fields below, is held while reading
	rerr     error      // all later reads return it
	buffered []byte     // what is left of Options.Buffered
	rem      int64      // payload bytes of the current data frame not read yet
	in       *control   // control frame of which a part has arrived
	key      uint32     // mask for the next byte of payload; 0 if none
	fragment bool       // the current message has more frames
	woken    bool       // WaitRead left an unseen byte in ahead
	lastHead uint8      // size of the last data frame's header
	nahead   uint8
	ahead    [16]byte // nahead bytes read beyond the payload: mostly part of a header

	queued   atomic.Pointer[control] // newest answer to a control frame, not begun
	deadline atomic.Int64            // for writing, Unix nanoseconds; 0 if none

	wmu   sync.Mutex // guards the fields below, is held while writing
	werr  error      // all later writes return it
	front *control   // goes out before pend
	pend  *message   // handed over in part or not at all
}

var _ net.Conn = (*Conn)(nil)

// New returns c as a Conn, which owns c from then on: the caller closes the
// Conn. c should be a *net.TCPConn or *net.UnixConn itself if it can be, since
// what the Conn does without blocking depends on that, or a *tls.Conn over an
// undertls.Socket, which can at least be parked. Conns that wrap a socket
// should have a method NetConn, as *tls.Conn has; without it pings are answered
// only in front of the next message, and Close sends no close frame.
func New(c net.Conn, role Role, opts Options) *Conn {
	if opts.MaxFrame == 0 {
		opts.MaxFrame = DefaultMaxFrame
	}
	ws := &Conn{c: c, raw: newRawConn(c), from: c, role: role, zeroMask: opts.ZeroMask, maxFrame: opts.MaxFrame}
	if ws.raw != nil {
		ws.from = ws.raw
	} else {
		ws.under = undertls.Of(c)
	}
	if len(opts.Buffered) > 0 {
		ws.buffered = opts.Buffered
	}
	return ws
}

// NetConn returns the underlying conn. Reading from or writing to it destroys
// the framing.
func (c *Conn) NetConn() net.Conn { return c.c }

// LocalAddr returns the underlying conn's local address.
func (c *Conn) LocalAddr() net.Addr { return c.c.LocalAddr() }

// RemoteAddr returns the underlying conn's remote address.
func (c *Conn) RemoteAddr() net.Addr { return c.c.RemoteAddr() }

// SetDeadline sets the deadlines for reading and writing.
func (c *Conn) SetDeadline(t time.Time) error {
	c.noteDeadline(t)
	return c.c.SetDeadline(t)
}

// SetReadDeadline sets the deadline for Read and WaitRead.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.c.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline for Write and FlushMessage.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.noteDeadline(t)
	return c.c.SetWriteDeadline(t)
}

func (c *Conn) noteDeadline(t time.Time) {
	if t.IsZero() {
		c.deadline.Store(0)
	} else {
		c.deadline.Store(t.UnixNano())
	}
}

// Close sends a close frame if that takes no waiting, closes the underlying
// conn and unblocks all calls. It does not wait for the other end, and is
// brief even if that does not read. Calls after the first return nil.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	if c.wmu.TryLock() {
		if c.werr == nil && c.pend == nil && c.front == nil {
			f := newClose(c.role, closeNormal, "")
			c.tryWrite(f.bytes()) // best effort: the conn ends either way
			f.release()
		}
		if c.werr == nil {
			c.werr = net.ErrClosed
		}
		c.dropLocked()
		c.wmu.Unlock()
	}
	defer c.unpark()
	if s := socket(c.c); s != c.c && !writable(s) {
		// crypto/tls would wait for room to say goodbye.
		err := s.Close()
		c.c.Close()
		return err
	}
	return c.c.Close()
}

// socket returns the conn that c wraps, as far down as the conns tell.
func socket(c net.Conn) net.Conn {
	for {
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = w.NetConn()
	}
}

// A CloseError is what Read returns when the other end closed with a close
// frame that tells of something else than a normal end.
type CloseError struct {
	Code   int    // RFC 6455, section 7.4
	Reason string // as sent by the other end, at most 123 bytes
}

func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("wsconn: closed by the other end with code %d", e.Code)
	}
	return fmt.Sprintf("wsconn: closed by the other end with code %d: %q", e.Code, e.Reason)
}

// A ProtocolError is what Read returns when the other end broke the protocol.
// The other end is told with a close frame if possible.
type ProtocolError struct {
	Code   int    // close code sent (RFC 6455, section 7.4)
	Reason string // what was wrong
}

func (e *ProtocolError) Error() string { return "wsconn: " + e.Reason }
