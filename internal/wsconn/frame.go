package wsconn

import (
	"encoding/binary"
	"fmt"
)

// Opcodes (RFC 6455, section 5.2).
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// Bits of a header's first two bytes.
const (
	bitFin  = 0x80
	bitsRSV = 0x70
	bitMask = 0x80
)

// Close codes (RFC 6455, section 7.4.1).
const (
	closeNormal      = 1000
	closeGoingAway   = 1001
	closeProtocol    = 1002
	closeUnsupported = 1003
	closeNotUTF8     = 1007
	closeTooBig      = 1009
)

const (
	maxHeader  = 14  // bytes of a header with the long length and a mask
	maxControl = 125 // payload bytes of a control frame
)

// A header is a frame's header.
type header struct {
	fin  bool
	op   byte
	key  uint32 // as xor takes it; 0 if the frame is not masked
	size int64  // of the payload, in bytes
}

// parse reads the header at the start of b. It returns n = 0 if b holds only a
// part of it, and an error as soon as the part suffices for that.
func (c *Conn) parse(b []byte) (h header, n int, bad *ProtocolError) {
	if len(b) < 2 {
		return h, 0, nil
	}
	h.fin, h.op = b[0]&bitFin != 0, b[0]&0x0f
	masked, short := b[1]&bitMask != 0, b[1]&^bitMask
	if bad := c.check(b[0], masked, short); bad != nil {
		return h, 0, bad
	}
	n = 2
	switch short {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	lengthEnd := n
	if masked {
		n += 4
	}
	if len(b) < n {
		return h, 0, nil
	}
	switch short {
	case 126:
		h.size = int64(binary.BigEndian.Uint16(b[2:]))
		if h.size < 126 {
			return h, 0, &ProtocolError{closeProtocol, fmt.Sprintf("frame length %d is not in its shortest form", h.size)}
		}
	case 127:
		u := binary.BigEndian.Uint64(b[2:])
		if u>>63 != 0 {
			return h, 0, &ProtocolError{closeProtocol, fmt.Sprintf("frame length %#x has its highest bit set", u)}
		}
		h.size = int64(u)
		if h.size <= 0xffff {
			return h, 0, &ProtocolError{closeProtocol, fmt.Sprintf("frame length %d is not in its shortest form", h.size)}
		}
	default:
		h.size = int64(short)
	}
	if h.size > c.maxFrame {
		return h, 0, &ProtocolError{closeTooBig, fmt.Sprintf("frame length %d is over the limit of %d", h.size, c.maxFrame)}
	}
	if masked {
		h.key = binary.LittleEndian.Uint32(b[lengthEnd:])
	}
	return h, n, nil
}

// check judges the first two bytes of a header.
func (c *Conn) check(b0 byte, masked bool, short byte) *ProtocolError {
	op, fin := b0&0x0f, b0&bitFin != 0
	switch {
	case b0&bitsRSV != 0:
		return &ProtocolError{closeProtocol, "frame with reserved bits set"}
	case masked && c.role == Client:
		return &ProtocolError{closeProtocol, "masked frame from a server"}
	case !masked && c.role == Server:
		return &ProtocolError{closeProtocol, "frame without mask"}
	}
	switch op {
	case opContinuation:
		if !c.fragment {
			return &ProtocolError{closeProtocol, "continuation frame outside of a message"}
		}
	case opText:
		return &ProtocolError{closeUnsupported, "text message; only binary ones are taken"}
	case opBinary:
		if c.fragment {
			return &ProtocolError{closeProtocol, "new message inside of a fragmented one"}
		}
	case opClose, opPing, opPong:
		if !fin {
			return &ProtocolError{closeProtocol, "fragmented control frame"}
		}
		if short > maxControl {
			return &ProtocolError{closeProtocol, "control frame over 125 bytes"}
		}
	default:
		return &ProtocolError{closeProtocol, fmt.Sprintf("frame with reserved opcode %#x", op)}
	}
	return nil
}

// headerSize returns the size of the header that putHeader writes.
func headerSize(role Role, size int) int {
	n := 2
	switch {
	case size > 0xffff:
		n += 8
	case size > 125:
		n += 2
	}
	if role == Client {
		n += 4
	}
	return n
}

// putHeader writes the header of a whole message of size bytes to the start of
// b and returns its size. key is for a Client only.
func putHeader(b []byte, role Role, op byte, size int, key uint32) int {
	b[0] = bitFin | op
	n := 2
	switch {
	case size > 0xffff:
		b[1] = 127
		binary.BigEndian.PutUint64(b[2:], uint64(size))
		n += 8
	case size > 125:
		b[1] = 126
		binary.BigEndian.PutUint16(b[2:], uint16(size))
		n += 2
	default:
		b[1] = byte(size)
	}
	if role == Client {
		b[1] |= bitMask
		binary.LittleEndian.PutUint32(b[n:], key)
		n += 4
	}
	return n
}
