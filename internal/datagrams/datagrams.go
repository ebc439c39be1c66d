// Package datagrams carries UDP over streams: each datagram with its length
// before it, as docs/protocol/native.md has it. Relay connects a stream to a
// connected socket; Flows are the streams of a socket that many send to.
package datagrams

import (
	"encoding/binary"
	"io"
	"sync"
)

// Sizes in bytes.
const (
	HeadLen = 2         // of the length before a datagram
	MaxLen  = 1<<16 - 1 // of a datagram
)

// buffers are for a datagram with its head. Nothing that waits holds one.
var buffers = sync.Pool{New: func() any { return new([HeadLen + MaxLen]byte) }}

// Write writes b[HeadLen:] to a stream as one datagram; the first bytes of b are
// for its length. It writes once.
func Write(w io.Writer, b []byte) error {
	binary.BigEndian.PutUint16(b, uint16(len(b)-HeadLen))
	_, err := w.Write(b)
	return err
}

// A Reader takes datagrams off a stream. It is not safe for concurrent use.
type Reader struct {
	r    io.Reader
	head [HeadLen]byte
	buf  *[HeadLen + MaxLen]byte // what Next has returned last, or nil
}

// NewReader returns a Reader of what Write has written to r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next datagram, which is good until the call after. The error
// is io.EOF at the end of the stream, and io.ErrUnexpectedEOF within a datagram.
func (r *Reader) Next() ([]byte, error) {
	r.Release()
	if _, err := io.ReadFull(r.r, r.head[:]); err != nil {
		return nil, err
	}
	r.buf = buffers.Get().(*[HeadLen + MaxLen]byte)
	b := r.buf[:binary.BigEndian.Uint16(r.head[:])]
	if _, err := io.ReadFull(r.r, b); err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	} else if err != nil {
		return nil, err
	}
	return b, nil
}

// Release gives back the memory of what Next has returned last.
func (r *Reader) Release() {
	if r.buf != nil {
		buffers.Put(r.buf)
		r.buf = nil
	}
}
