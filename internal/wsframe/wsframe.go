// Package wsframe has what every user of the WebSocket protocol (RFC 6455)
// needs, whatever it carries: the headers of frames, the mask, and the answer
// to a handshake's key.
package wsframe

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// Opcodes (RFC 6455, section 5.2). Control frames are those from Close on.
const (
	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	Close        = 0x8
	Ping         = 0x9
	Pong         = 0xa
)

// Codes of close frames (RFC 6455, section 7.4.1).
const (
	CloseNormal    = 1000
	CloseGoingAway = 1001
	CloseProtocol  = 1002
	ClosePolicy    = 1008
)

const (
	// MaxHeader is the longest header, in bytes: that with a length of eight
	// bytes and a mask.
	MaxHeader = 14

	// MaxControl is the longest payload of a control frame, in bytes.
	MaxControl = 125
)

const (
	bitFin  = 0x80
	bitsRSV = 0x70
	bitMask = 0x80
)

// What is wrong with a header.
var (
	ErrReserved = errors.New("frame with reserved bits set")
	ErrOpcode   = errors.New("frame with a reserved opcode")
	ErrLength   = errors.New("frame length that is negative or not in its shortest form")
	ErrControl  = errors.New("control frame that is fragmented or over 125 bytes")
)

// A Header is the header of a frame.
type Header struct {
	Fin    bool
	Op     byte
	Masked bool
	Key    uint32 // as Mask takes it
	Size   int64  // of the payload, in bytes
}

// Parse reads the header at the start of b and returns its length, which is 0
// if b has only a part of it. The error is one of those above.
func Parse(b []byte) (h Header, n int, err error) {
	if len(b) < 2 {
		return h, 0, nil
	}
	h.Fin, h.Op, h.Masked = b[0]&bitFin != 0, b[0]&0x0f, b[1]&bitMask != 0
	short := b[1] &^ bitMask
	switch {
	case b[0]&bitsRSV != 0:
		return h, 0, ErrReserved
	case h.Op > Binary && h.Op < Close || h.Op > Pong:
		return h, 0, ErrOpcode
	case h.Op >= Close && (!h.Fin || short > MaxControl):
		return h, 0, ErrControl
	}
	n = 2
	switch short {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	end := n
	if h.Masked {
		n += 4
	}
	if len(b) < n {
		return h, 0, nil
	}
	switch short {
	case 126:
		h.Size = int64(binary.BigEndian.Uint16(b[2:]))
		if h.Size < 126 {
			return h, 0, ErrLength
		}
	case 127:
		h.Size = int64(binary.BigEndian.Uint64(b[2:]))
		if h.Size <= 0xffff {
			return h, 0, ErrLength
		}
	default:
		h.Size = int64(short)
	}
	if h.Masked {
		h.Key = binary.LittleEndian.Uint32(b[end:])
	}
	return h, n, nil
}

// IsClose reports whether b may be the payload of a close frame: empty, or a code
// that is for frames and perhaps a text (RFC 6455, sections 5.5.1 and 7.4).
func IsClose(b []byte) bool {
	if len(b) < 2 {
		return len(b) == 0
	}
	switch code := binary.BigEndian.Uint16(b); {
	case code < 1000, code >= 1004 && code <= 1006, code >= 1015 && code < 3000, code >= 5000:
		return false
	}
	return utf8.Valid(b[2:])
}

// Append appends the header of a whole message, or of a control frame, with
// size bytes of payload.
func Append(b []byte, op byte, size int, masked bool, key uint32) []byte {
	mask := byte(0)
	if masked {
		mask = bitMask
	}
	b = append(b, bitFin|op)
	switch {
	case size > 0xffff:
		b = append(b, mask|127)
		b = binary.BigEndian.AppendUint64(b, uint64(size))
	case size > 125:
		b = append(b, mask|126)
		b = binary.BigEndian.AppendUint16(b, uint16(size))
	default:
		b = append(b, mask|byte(size))
	}
	if masked {
		b = binary.LittleEndian.AppendUint32(b, key)
	}
	return b
}

// Accept returns the answer to a key of a handshake (RFC 6455, section 4.2.2).
func Accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
