package session

import (
	"encoding/binary"
	"errors"
	"fmt"

	"adit/internal/printable"
)

// The layouts in this file are those of docs/protocol/native.md.

// A recordKind is the first byte of a record.
type recordKind byte

const (
	recHello   recordKind = 0x01
	recWelcome recordKind = 0x02
	recReject  recordKind = 0x03
	recBatch   recordKind = 0x10
	recAck     recordKind = 0x11
	recPing    recordKind = 0x12
	recPong    recordKind = 0x13
	recClose   recordKind = 0x14
)

const (
	recordHeader = 4                 // kind, length
	batchHeader  = recordHeader + 16 // and ack, seq
	maxRecord    = 1 << 20
	maxHandshake = 4096 // bytes of HELLO, WELCOME and REJECT
)

func putRecordHeader(b []byte, kind recordKind, length int) {
	binary.BigEndian.PutUint32(b, uint32(length))
	b[0] = byte(kind)
}

func parseRecordHeader(b []byte) (recordKind, int) {
	return recordKind(b[0]), int(binary.BigEndian.Uint32(b) & 0xffffff)
}

// A frameType is the first byte of a frame.
type frameType byte

const (
	frameOpen   frameType = 0x01
	frameAccept frameType = 0x02
	frameRefuse frameType = 0x03
	frameData   frameType = 0x04
	frameEnd    frameType = 0x05
	frameCredit frameType = 0x06
	frameReset  frameType = 0x07
	frameStop   frameType = 0x08
	frameDrain  frameType = 0x09
	frameCall   frameType = 0x0a
	frameResult frameType = 0x0b
)

const (
	frameHeader = 12
	maxData     = 256 << 10 // payload of DATA and END

	// What this side puts into one frame at most, and in a fast session. A
	// batch with one is a little less than 64 KiB, or four times that: what
	// Linux hands to its network layers in one piece. A few bytes more would
	// be another packet for each batch.
	slowData = 63 << 10
	fastData = 255 << 10

	maxMeta   = 4096  // payload of OPEN
	maxCall   = 16384 // payload of CALL and RESULT, method or status included
	maxReason = 256   // bytes of text in REFUSE, RESET, STOP, DRAIN and CLOSE
)

// maxPayload is the longest payload of each frame type that is collected
// before it is handled; 0 for a type that this version does not know.
func (t frameType) maxPayload() int {
	switch t {
	case frameData, frameEnd:
		return maxData
	case frameOpen, frameAccept:
		return maxMeta
	case frameCall, frameResult:
		return maxCall
	case frameCredit:
		return 64
	case frameRefuse, frameReset, frameStop, frameDrain:
		return 512
	}
	return 0
}

func putFrameHeader(b []byte, t frameType, length int, id uint64) {
	binary.BigEndian.PutUint32(b, uint32(length))
	b[0] = byte(t)
	binary.BigEndian.PutUint64(b[4:], id)
}

func parseFrameHeader(b []byte) (t frameType, length int, id uint64) {
	return frameType(b[0]), int(binary.BigEndian.Uint32(b) & 0xffffff), binary.BigEndian.Uint64(b[4:])
}

// parseCode splits a payload that starts with a code from its text.
func parseCode(p []byte) (code uint16, rest []byte, ok bool) {
	if len(p) < 2 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint16(p), p[2:], true
}

// cleanReason makes text from the other side fit for logs and error messages,
// and text for the other side fit for the wire: valid UTF-8, printable, at
// most maxReason bytes.
func cleanReason(s string) string {
	return printable.Cut(printable.Text(s), maxReason)
}

// Tags of the fields of HELLO, WELCOME and REJECT.
const (
	tagSession      = 1
	tagSecret       = 2
	tagAttempt      = 3
	tagReceived     = 4
	tagProof        = 5
	tagWindow       = 6
	tagStreams      = 7
	tagResumeWindow = 8
	tagSoftware     = 9
	tagReason       = 10
	tagRetryAfter   = 11
	tagVersions     = 12
)

// AppendField appends a field: tag, length, value.
func AppendField(b []byte, tag uint64, value []byte) []byte {
	b = binary.AppendUvarint(b, tag)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// AppendUintField appends a field whose value is a uvarint.
func AppendUintField(b []byte, tag, value uint64) []byte {
	var v [binary.MaxVarintLen64]byte
	return AppendField(b, tag, v[:binary.PutUvarint(v[:], value)])
}

// AppendStringField appends a field of text, or nothing if s is empty.
func AppendStringField(b []byte, tag uint64, s string) []byte {
	if s == "" {
		return b
	}
	b = binary.AppendUvarint(b, tag)
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

var errTruncatedField = errors.New("field runs over the end")

// ParseFields calls f for each field of b, in order. f's error ends the walk
// and is returned. value is part of b.
func ParseFields(b []byte, f func(tag uint64, value []byte) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return errTruncatedField
		}
		b = b[n:]
		length, n := binary.Uvarint(b)
		if n <= 0 || length > uint64(len(b)-n) {
			return errTruncatedField
		}
		b = b[n:]
		if err := f(tag, b[:length:length]); err != nil {
			return err
		}
		b = b[length:]
	}
	return nil
}

// UintField is the value of a field appended by AppendUintField.
func UintField(value []byte) (uint64, error) {
	v, n := binary.Uvarint(value)
	if n <= 0 || n != len(value) {
		return 0, fmt.Errorf("field value %x is not one uvarint", value)
	}
	return v, nil
}
