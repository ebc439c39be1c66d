// Package testdatagrams is the plain way to put datagrams on a stream and to take
// them off, as docs/protocol/native.md has them, for tests of what does it fast.
package testdatagrams

import (
	"encoding/binary"
	"io"
)

// headLen is the size in bytes of the length before a datagram.
const headLen = 2

// Write writes b to a stream as one datagram, in one call.
func Write(w io.Writer, b []byte) error {
	head := make([]byte, headLen, headLen+len(b))
	binary.BigEndian.PutUint16(head, uint16(len(b)))
	_, err := w.Write(append(head, b...))
	return err
}

// Read takes the next datagram off a stream. The error is io.EOF at the end of the
// stream, and io.ErrUnexpectedEOF within a datagram.
func Read(r io.Reader) ([]byte, error) {
	var head [headLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(r, b); err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	} else if err != nil {
		return nil, err
	}
	return b, nil
}
