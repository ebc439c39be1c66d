package wsconn

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"unicode/utf8"
)

var errCloseSent = errors.New("wsconn: write after the close frame")

// controlHead is where the payload starts in a control's buf, behind the
// largest header that it can get.
const controlHead = 2 + 4

// A control is one control frame: while it arrives, the payload alone, and
// later the frame that answers it. Few exist at a time: a Conn has at most one
// that arrives and two that leave.
type control struct {
	op   byte
	n    uint8  // payload bytes in buf
	want uint8  // payload bytes announced
	key  uint32 // mask for the next byte that arrives
	off  uint8  // start of what has to be sent
	end  uint8  // end of what has to be sent
	sent bool   // a part has been sent
	buf  [controlHead + maxControl]byte
}

var controls = sync.Pool{New: func() any { return new(control) }}

// newControl returns a control for the frame whose header arrived.
func newControl(h header) *control {
	f := controls.Get().(*control)
	*f = control{op: h.op, want: uint8(h.size), key: h.key}
	return f
}

// newClose returns a close frame that is ready to be sent.
func newClose(role Role, code int, reason string) *control {
	f := controls.Get().(*control)
	*f = control{}
	p := binary.BigEndian.AppendUint16(f.buf[controlHead:controlHead], uint16(code))
	f.n = uint8(2 + copy(f.buf[controlHead+len(p):], reason))
	f.seal(role, opClose)
	return f
}

func (f *control) release() { controls.Put(f) }

// take moves payload that arrived into f and returns how many bytes.
func (f *control) take(src []byte) int {
	k := copy(f.buf[controlHead+int(f.n):controlHead+int(f.want)], src)
	p := f.buf[controlHead+int(f.n):][:k]
	f.key = xor(p, p, f.key)
	f.n += uint8(k)
	return k
}

// whole reports whether all of the payload has arrived.
func (f *control) whole() bool { return f.n == f.want }

func (f *control) payload() []byte { return f.buf[controlHead : controlHead+int(f.n)] }

// seal turns f into a frame with op and its present payload, to be sent.
func (f *control) seal(role Role, op byte) {
	f.op = op
	size := headerSize(role, int(f.n))
	f.off, f.end = uint8(controlHead-size), uint8(controlHead+int(f.n))
	var key [4]byte
	if role == Client {
		rand.Read(key[:])
	}
	k := binary.LittleEndian.Uint32(key[:])
	putHeader(f.buf[f.off:], role, op, int(f.n), k)
	p := f.payload()
	xor(p, p, k)
}

// bytes returns what is left to be sent.
func (f *control) bytes() []byte { return f.buf[f.off:f.end] }

// advance notes that n bytes were sent, and reports whether that was all.
func (f *control) advance(n int) bool {
	f.off += uint8(n)
	f.sent = f.sent || n > 0
	return f.off == f.end
}

// answer deals with the control frame that has arrived.
func (c *Conn) answer() {
	f := c.in
	c.in = nil
	switch f.op {
	case opPing:
		f.seal(c.role, opPong)
		c.queue(f)
	case opClose:
		code, err := closeResult(f.payload())
		c.fail(err)
		if code != 0 {
			f.release()
			f = newClose(c.role, code, "")
		} else {
			f.n = 0
			f.seal(c.role, opClose)
		}
		c.queue(f)
	default:
		f.release()
	}
}

// closeResult returns what a close frame's payload means to Read, and the code
// to answer with, which is 0 if there was none.
func closeResult(p []byte) (code int, err error) {
	if len(p) == 0 {
		return 0, io.EOF
	}
	if len(p) == 1 {
		return closeProtocol, &ProtocolError{closeProtocol, "close frame with a payload of one byte"}
	}
	code = int(binary.BigEndian.Uint16(p))
	reason := p[2:]
	switch {
	case code < 1000, code >= 1004 && code <= 1006, code >= 1015 && code < 3000, code >= 5000:
		return closeProtocol, &ProtocolError{closeProtocol, "close frame with a code that must not be sent"}
	case !utf8.Valid(reason):
		return closeNotUTF8, &ProtocolError{closeNotUTF8, "close frame with a reason that is not UTF-8"}
	case code == closeNormal, code == closeGoingAway:
		return code, io.EOF
	}
	return code, &CloseError{Code: code, Reason: string(reason)}
}

// queue hands f to the writing side, in place of an older answer that has not
// been begun, and sends it if that takes no waiting.
func (c *Conn) queue(f *control) {
	if old := c.queued.Swap(f); old != nil {
		old.release()
	}
	if c.wmu.TryLock() {
		c.pushLocked()
		c.unlockWrite()
	}
}

// unlockWrite unlocks wmu, and sends an answer that the reader queued while it
// was locked.
func (c *Conn) unlockWrite() {
	for {
		c.wmu.Unlock()
		if c.queued.Load() == nil || !c.wmu.TryLock() {
			return
		}
		if !c.pushLocked() {
			c.wmu.Unlock()
			return
		}
	}
}

// takeQueuedLocked makes the newest answer the front one, unless that has been
// begun.
func (c *Conn) takeQueuedLocked() {
	if c.front != nil && c.front.sent {
		return
	}
	if f := c.queued.Swap(nil); f != nil {
		if c.front != nil {
			c.front.release()
		}
		c.front = f
	}
}

// pushLocked sends the answer that is next, if there is one and it takes no
// waiting, and reports whether it is all gone.
func (c *Conn) pushLocked() bool {
	if c.werr != nil || c.pend != nil {
		return false
	}
	c.takeQueuedLocked()
	if c.front == nil {
		return false
	}
	n, err := c.tryWrite(c.front.bytes())
	return c.frontSentLocked(n, err) == nil && c.front == nil
}

// flushFrontLocked sends the answer that is next, if there is one, and waits
// until it is gone.
func (c *Conn) flushFrontLocked() error {
	c.takeQueuedLocked()
	if c.front == nil {
		return nil
	}
	n, err := c.c.Write(c.front.bytes())
	if err := c.frontSentLocked(n, err); err != nil {
		return err
	}
	return c.werr // after a close frame nothing may follow
}

// frontSentLocked notes the result of a write of the front's bytes.
func (c *Conn) frontSentLocked(n int, err error) error {
	if c.front.advance(n) {
		if c.front.op == opClose {
			c.werr = errCloseSent
		}
		c.front.release()
		c.front = nil
		return nil
	}
	if err != nil && !isTimeout(err) {
		c.werr = err
	}
	return err
}
