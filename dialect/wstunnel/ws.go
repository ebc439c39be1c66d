package wstunnel

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"adit/internal/wsframe"
)

const (
	// MaxMessage is the longest message that originals take, in bytes, with
	// the four of its id.
	MaxMessage = 100 << 20

	// frameSize is the payload of the frames that a long message is sent in,
	// so that pings and pongs go out between them.
	frameSize = 64 << 10

	// writeTime bounds the writing of one frame.
	writeTime = 60 * time.Second
)

var (
	errText    = errors.New("text message: only binary ones are allowed")
	errMasking = errors.New("frame that is masked and must not be, or the other way round")
	errOrder   = errors.New("continuation of no message, or a message within another")
	errClosed  = errors.New("the other end closed the connection")
	errSilent  = errors.New("ping timeout")
	errEnded   = errors.New("the connection is closed")
)

// A wsReader reads messages from a WebSocket. Only one goroutine uses it.
type wsReader struct {
	c      net.Conn
	br     *bufio.Reader
	client bool                          // its frames must not be masked
	limit  func() time.Duration          // how long the other end may be silent
	onCtrl func(op byte, payload []byte) // of pings, pongs and close frames

	rem      int64 // of the current frame
	key      uint32
	fin      bool
	within   bool // of a message
	deadline time.Time
}

// alive moves the time-out: something has arrived.
func (r *wsReader) alive() {
	limit := r.limit()
	if now := time.Now(); r.deadline.Sub(now) < limit {
		r.deadline = now.Add(limit + limit/16) // so that it is never too early
		r.c.SetReadDeadline(r.deadline)
	}
}

// next waits for the next message, after the end of the last one.
func (r *wsReader) next() error {
	for !r.within {
		if err := r.frame(); err != nil {
			return err
		}
	}
	return nil
}

// frame reads one header, and the whole of a control frame.
func (r *wsReader) frame() error {
	h, err := r.header()
	if err != nil {
		return err
	}
	r.alive()
	switch {
	case h.Masked == r.client:
		return errMasking
	case h.Op == wsframe.Text:
		return errText
	case h.Op >= wsframe.Close:
		return r.control(h)
	case (h.Op == wsframe.Continuation) != r.within:
		return errOrder
	}
	r.within, r.fin, r.rem, r.key = true, h.Fin, h.Size, h.Key
	return nil
}

func (r *wsReader) header() (wsframe.Header, error) {
	for need := 2; ; need++ {
		b, err := r.br.Peek(max(need, min(r.br.Buffered(), wsframe.MaxHeader)))
		if err != nil {
			return wsframe.Header{}, r.failed(err)
		}
		h, n, err := wsframe.Parse(b)
		if err != nil {
			return h, err
		}
		if n > 0 {
			r.br.Discard(n)
			return h, nil
		}
	}
}

func (r *wsReader) failed(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errSilent
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (r *wsReader) control(h wsframe.Header) error {
	p := make([]byte, h.Size)
	if _, err := io.ReadFull(r.br, p); err != nil {
		return r.failed(err)
	}
	if h.Masked {
		wsframe.Mask(p, p, h.Key)
	}
	r.onCtrl(h.Op, p)
	if h.Op == wsframe.Close {
		return errClosed
	}
	return nil
}

// Read reads the current message; io.EOF is its end.
func (r *wsReader) Read(p []byte) (int, error) {
	for r.rem == 0 {
		if !r.within {
			return 0, io.EOF
		}
		if r.fin {
			r.within = false
			return 0, io.EOF
		}
		if err := r.frame(); err != nil {
			return 0, err
		}
	}
	n, err := r.br.Read(p[:min(int64(len(p)), r.rem)])
	if n > 0 {
		r.alive()
		if r.key != 0 {
			r.key = wsframe.Mask(p[:n], p[:n], r.key)
		}
		r.rem -= int64(n)
		return n, nil
	}
	return 0, r.failed(err)
}

// end takes note of a message's end, which has been read to its last byte.
func (r *wsReader) end() error {
	if _, err := r.Read(nil); !errors.Is(err, io.EOF) {
		return errors.Join(err, errOrder)
	}
	return nil
}

// readID reads the id in front of a message. A message that is shorter, or has
// none, is an error that ends the connection.
func (r *wsReader) readID() (uint16, error) {
	var b [idSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && !r.within {
			return 0, errID
		}
		return 0, err
	}
	return parseID(b[:])
}

// An outgoing is a message that waits to be sent, or is. Its body is complete.
type outgoing struct {
	id   uint16
	head []byte // what comes behind the id
	body *spool // what comes behind head; nil if nothing

	// delivered is called once, when the last byte is about to be handed to
	// the system (true), and again if it was not taken (false). It may be nil.
	delivered func(bool)
}

// drop is called when m is out of the writer's hands.
func (m *outgoing) drop() {
	if m.body != nil {
		m.body.free()
	}
}

// A wsWriter sends messages and control frames. Its run owns all writing.
type wsWriter struct {
	c      net.Conn
	client bool // masks

	mu      sync.Mutex // guards the fields below
	queue   []*outgoing
	control []byte // frames that go out before the next of a message
	closing bool   // end when control is out
	ended   error
	wake    chan struct{}
}

func newWriter(c net.Conn, client bool) *wsWriter {
	return &wsWriter{c: c, client: client, wake: make(chan struct{}, 1)}
}

func (w *wsWriter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// send queues a message; it reports false if nothing is sent any more.
func (w *wsWriter) send(m *outgoing) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		return false
	}
	if m.body != nil {
		m.body.hold()
	}
	w.queue = append(w.queue, m)
	w.signal()
	return true
}

// unsend takes back a message that has not been begun.
func (w *wsWriter) unsend(m *outgoing) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, q := range w.queue {
		if q == m {
			w.queue = append(w.queue[:i], w.queue[i+1:]...)
			m.drop()
			return true
		}
	}
	return false
}

// maxControl bounds the control frames that wait for a peer that sends pings
// and does not read.
const maxControl = 4 << 10

// sendControl queues a control frame.
func (w *wsWriter) sendControl(op byte, payload []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.control) < maxControl {
		w.control = appendFrame(w.control, op, true, payload, w.client)
		w.signal()
	}
}

// close lets the control frames out that are queued, and ends run.
func (w *wsWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closing = true
	w.signal()
}

// run sends what is queued until close or an error. At its end it hands back
// what was not begun.
func (w *wsWriter) run() (left []*outgoing, err error) {
	defer func() {
		for _, m := range left {
			m.drop()
		}
	}()
	var buf []byte
	for {
		var batch []*outgoing
		w.mu.Lock()
		for len(w.queue) == 0 && len(w.control) == 0 && !w.closing {
			w.mu.Unlock()
			<-w.wake
			w.mu.Lock()
		}
		buf = append(buf[:0], w.control...)
		w.control = w.control[:0]
		if w.closing {
			left, w.queue, w.ended = w.queue, nil, errEnded
			w.mu.Unlock()
			w.c.SetWriteDeadline(time.Now().Add(time.Second))
			w.c.Write(buf)
			return left, errEnded
		}
		var size int
		for size < frameSize && len(w.queue) > 0 {
			m := w.queue[0]
			if m.body != nil && len(batch) > 0 {
				break
			}
			w.queue[0] = nil
			w.queue = w.queue[1:]
			batch = append(batch, m)
			size += len(m.head)
			if m.body != nil {
				break
			}
		}
		w.mu.Unlock()
		if len(batch) == 1 && batch[0].body != nil {
			err = w.long(batch[0], buf)
		} else {
			buf, err = w.short(batch, buf)
		}
		if err != nil {
			w.mu.Lock()
			left, w.queue, w.ended = w.queue, nil, err
			w.mu.Unlock()
			return left, err
		}
		if cap(buf) > 2*frameSize {
			buf = nil
		}
	}
}

// short sends messages that are in memory as a whole in one write.
func (w *wsWriter) short(batch []*outgoing, buf []byte) ([]byte, error) {
	var few [16]int
	ends := few[:0]
	var id [idSize]byte
	for _, m := range batch {
		buf = appendFrame2(buf, putID(id[:0], m.id), m.head, w.client)
		ends = append(ends, len(buf))
		if m.delivered != nil {
			m.delivered(true)
		}
	}
	n, err := w.write(buf)
	for i, m := range batch {
		if err != nil && ends[i] > n && m.delivered != nil {
			m.delivered(false)
		}
	}
	return buf, err
}

// long sends one message in several frames, and control frames between them.
func (w *wsWriter) long(m *outgoing, buf []byte) (err error) {
	defer m.drop()
	r := io.MultiReader(idReader(m.id), byteReader(m.head), &spoolReader{s: m.body})
	left := int64(idSize+len(m.head)) + m.body.len()
	op := byte(wsframe.Binary)
	chunk := make([]byte, frameSize)
	for left > 0 {
		p := chunk[:min(left, frameSize)]
		if _, err := io.ReadFull(r, p); err != nil {
			return fmt.Errorf("read back a body: %w", err)
		}
		left -= int64(len(p))
		buf = appendFrame(buf, op, left == 0, p, w.client)
		op = wsframe.Continuation
		if left == 0 && m.delivered != nil {
			m.delivered(true)
		}
		if n, err := w.write(buf); err != nil {
			if left == 0 && n < len(buf) && m.delivered != nil {
				m.delivered(false)
			}
			return err
		}
		w.mu.Lock()
		buf = append(buf[:0], w.control...)
		w.control = w.control[:0]
		closing := w.closing
		w.mu.Unlock()
		if closing && left > 0 {
			return errEnded
		}
	}
	if len(buf) > 0 {
		_, err = w.write(buf)
	}
	return err
}

func (w *wsWriter) write(b []byte) (int, error) {
	w.c.SetWriteDeadline(time.Now().Add(writeTime))
	return w.c.Write(b)
}

func mask() uint32 {
	for {
		if k := rand.Uint32(); k != 0 {
			return k
		}
	}
}

// appendFrame appends a frame.
func appendFrame(b []byte, op byte, fin bool, p []byte, client bool) []byte {
	var key uint32
	if client {
		key = mask()
	}
	at := len(b)
	b = wsframe.Append(b, op, len(p), client, key)
	if !fin {
		b[at] &^= 0x80
	}
	at = len(b)
	b = append(b, p...)
	if client {
		wsframe.Mask(b[at:], b[at:], key)
	}
	return b
}

// appendFrame2 appends a message of two parts.
func appendFrame2(b, p, q []byte, client bool) []byte {
	var key uint32
	if client {
		key = mask()
	}
	b = wsframe.Append(b, wsframe.Binary, len(p)+len(q), client, key)
	at := len(b)
	b = append(append(b, p...), q...)
	if client {
		wsframe.Mask(b[at:], b[at:], key)
	}
	return b
}

// closeFrame returns the payload of a close frame; code 0 is none.
func closeFrame(code int) []byte {
	if code == 0 {
		return nil
	}
	return binary.BigEndian.AppendUint16(nil, uint16(code))
}
