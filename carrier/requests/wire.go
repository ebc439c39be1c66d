package requests

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The layouts in this file are those of docs/protocol/carriers.md.

const wireVersion = 1

// An operation is what a request is for.
type operation byte

const (
	opUp     operation = 1
	opPoll   operation = 2
	opStream operation = 3
	opEnd    operation = 4
)

// An id names a conn. Who does not know its keys cannot use it.
type id [16]byte

const (
	headSigned = 52
	headSize   = headSigned + sha256.Size
)

// A head is what the header field of a request says.
type head struct {
	op       operation
	text     bool // frames are to come as server-sent events
	id       id
	number   uint64 // of the request; each operation counts its own
	received uint64 // bytes that the dialler has of the other side's sequence
	position uint64 // opUp, opEnd: of the first byte; opPoll: the least number that is unanswered
	size     uint32 // opUp: bytes in the body; opPoll: bytes that the answer may have
	wait     uint32 // opPoll: milliseconds
}

func (h *head) encode(key []byte) string {
	b := make([]byte, 4, headSize)
	b[0], b[1] = wireVersion, byte(h.op)
	if h.text {
		b[2] = 1
	}
	b = append(b, h.id[:]...)
	b = binary.BigEndian.AppendUint64(b, h.number)
	b = binary.BigEndian.AppendUint64(b, h.received)
	b = binary.BigEndian.AppendUint64(b, h.position)
	b = binary.BigEndian.AppendUint32(b, h.size)
	b = binary.BigEndian.AppendUint32(b, h.wait)
	return base64.RawURLEncoding.EncodeToString(prove(key, b))
}

// prove appends the proof to b.
func prove(key, b []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(b)
	return m.Sum(b)
}

// A signedHead is a head whose proof has not been checked.
type signedHead struct {
	head
	bytes [headSize]byte
}

func parseHead(s string) (*signedHead, bool) {
	if len(s) != base64.RawURLEncoding.EncodedLen(headSize) {
		return nil, false
	}
	h := new(signedHead)
	if _, err := base64.RawURLEncoding.Strict().Decode(h.bytes[:], []byte(s)); err != nil {
		return nil, false
	}
	b := h.bytes[:]
	if b[0] != wireVersion || b[2] > 1 || b[3] != 0 {
		return nil, false
	}
	h.op, h.text = operation(b[1]), b[2] == 1
	copy(h.id[:], b[4:])
	h.number = binary.BigEndian.Uint64(b[20:])
	h.received = binary.BigEndian.Uint64(b[28:])
	h.position = binary.BigEndian.Uint64(b[36:])
	h.size = binary.BigEndian.Uint32(b[44:])
	h.wait = binary.BigEndian.Uint32(b[48:])
	return h, h.op >= opUp && h.op <= opEnd
}

// proven reports whether the head was made by somebody who has key.
func (h *signedHead) proven(key []byte) bool {
	m := hmac.New(sha256.New, key)
	m.Write(h.bytes[:headSigned])
	return hmac.Equal(m.Sum(nil), h.bytes[headSigned:])
}

const (
	frameHeader   = 29
	frameTag      = 16
	frameOverhead = frameHeader + frameTag
)

// Flags of a frame.
const (
	flagEnd  = 1 // the sender has closed, behind these bytes
	flagMore = 2 // it has more to send than fits
	flagLast = 4 // the answer to a poll ends here
)

// A frame is bytes of a sequence, sealed.
type frame struct {
	flags    byte
	position uint64 // of the first byte
	received uint64 // bytes that the sender has of the other side's sequence
	number   uint64 // never the same for two frames under one key
	data     []byte
}

func (f *frame) appendHeader(b []byte, size int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = append(b, f.flags)
	b = binary.BigEndian.AppendUint64(b, f.position)
	b = binary.BigEndian.AppendUint64(b, f.received)
	return binary.BigEndian.AppendUint64(b, f.number)
}

// bound is what is sealed beside the data: the frame's header, and the request
// that it belongs to.
func bound(header []byte, request uint64) []byte {
	return binary.BigEndian.AppendUint64(header[:frameHeader:frameHeader], request)
}

func nonce(number uint64) []byte {
	var n [12]byte
	binary.BigEndian.PutUint64(n[4:], number)
	return n[:]
}

// seal appends the frame to b; parts together are its data.
func (f *frame) seal(b []byte, key cipher.AEAD, request uint64) []byte {
	at := len(b)
	b = f.appendHeader(b, len(f.data))
	return key.Seal(b, nonce(f.number), f.data, bound(b[at:], request))
}

// parseFrame reads the header of a frame, and returns the size of its data.
func parseFrame(b []byte) (f frame, size int) {
	size = int(binary.BigEndian.Uint32(b))
	f.flags = b[4]
	f.position = binary.BigEndian.Uint64(b[5:])
	f.received = binary.BigEndian.Uint64(b[13:])
	f.number = binary.BigEndian.Uint64(b[21:])
	return f, size
}

var errForged = errors.New("a frame was not made by the other side, or has been changed on the way")

// open decrypts b, a whole frame, in place.
func open(b []byte, key cipher.AEAD, request uint64) (f frame, err error) {
	if len(b) < frameOverhead {
		return f, fmt.Errorf("a frame with %d bytes: it takes %d at least", len(b), frameOverhead)
	}
	f, size := parseFrame(b)
	if size != len(b)-frameOverhead {
		return f, fmt.Errorf("a frame says that it has %d bytes, and has %d", size, len(b)-frameOverhead)
	}
	f.data, err = key.Open(b[frameHeader:frameHeader], nonce(f.number), b[frameHeader:], bound(b, request))
	if err != nil {
		return f, errForged
	}
	return f, nil
}

// readFrame reads a frame of at most limit bytes of data into a buffer from the
// pool, and opens it. The caller releases the buffer.
func readFrame(r io.Reader, key cipher.AEAD, request uint64, limit int) (f frame, buf *buffer, err error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return f, nil, err
	}
	_, size := parseFrame(h[:])
	if size > limit {
		return f, nil, fmt.Errorf("a frame of %d bytes: at most %d are allowed", size, limit)
	}
	buf = getBuffer(size + frameOverhead)
	copy(buf.b, h[:])
	if _, err := io.ReadFull(r, buf.b[frameHeader:]); err != nil {
		buf.release()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return f, nil, err
	}
	if f, err = open(buf.b, key, request); err != nil {
		buf.release()
		return f, nil, err
	}
	return f, buf, nil
}

// keys are what both ends of a conn agree on.
type keys struct {
	requests []byte      // of the heads of requests
	up, down cipher.AEAD // of frames
}

// agree derives the keys from a key agreement over X25519 (RFC 7748).
func agree(mine *ecdh.PrivateKey, theirs *ecdh.PublicKey, i id, dialler, listener []byte) (*keys, error) {
	shared, err := mine.ECDH(theirs)
	if err != nil {
		return nil, err
	}
	salt := append(append(i[:len(i):len(i)], dialler...), listener...)
	derive := func(info string) []byte {
		b, derr := hkdf.Key(sha256.New, shared, salt, "adit carrier "+info, 32)
		err = errors.Join(err, derr)
		return b
	}
	k := &keys{requests: derive("requests")}
	k.up = newAEAD(derive("up"))
	k.down = newAEAD(derive("down"))
	return k, err
}

func newAEAD(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the length of key is our own
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

const keySize = 32

func newKey() (*ecdh.PrivateKey, error) { return ecdh.X25519().GenerateKey(rand.Reader) }

// answerMagic begins the answer to the request that opens a conn.
const answerMagic = "adit\x01"

const answerSize = len(answerMagic) + len(id{}) + keySize + frameOverhead
