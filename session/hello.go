package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The versions of the protocol that this package speaks.
const (
	minVersion = 1
	maxVersion = 1
)

var magic = [4]byte{'a', 'd', 'i', 't'}

type (
	sessionID [16]byte
	secretKey [32]byte
	proof     [32]byte
)

// A hello is the content of HELLO or of WELCOME: both say who, and what the
// sender allows the other side.
type hello struct {
	minVersion, maxVersion byte // in WELCOME both are the version that was chosen

	resume   bool // HELLO: continue session
	session  sessionID
	secret   secretKey // WELCOME of a new session
	attempt  uint64
	received uint64
	proof    proof

	window       uint64
	streams      uint64
	resumeWindow time.Duration
	software     string
}

func (h *hello) appendFields(b []byte, kind recordKind) []byte {
	if h.resume || kind == recWelcome {
		b = AppendField(b, tagSession, h.session[:])
	}
	if h.resume {
		if kind == recHello {
			b = AppendUintField(b, tagAttempt, h.attempt)
		}
		b = AppendUintField(b, tagReceived, h.received)
		b = AppendField(b, tagProof, h.proof[:])
	} else if kind == recWelcome {
		b = AppendField(b, tagSecret, h.secret[:])
	}
	b = AppendUintField(b, tagWindow, h.window)
	b = AppendUintField(b, tagStreams, h.streams)
	b = AppendUintField(b, tagResumeWindow, uint64(h.resumeWindow/time.Millisecond))
	return AppendStringField(b, tagSoftware, h.software)
}

func (h *hello) parseFields(b []byte) error {
	h.window = defaultWindow
	var seen uint64 // of two fields with one tag the first counts
	return ParseFields(b, func(tag uint64, v []byte) (err error) {
		if tag >= 64 || seen&(1<<tag) != 0 {
			return nil
		}
		seen |= 1 << tag
		switch tag {
		case tagSession:
			h.resume = true
			err = fixed(h.session[:], v, "session")
		case tagSecret:
			err = fixed(h.secret[:], v, "secret")
		case tagProof:
			err = fixed(h.proof[:], v, "proof")
		case tagAttempt:
			h.attempt, err = UintField(v)
		case tagReceived:
			h.received, err = UintField(v)
		case tagWindow:
			h.window, err = UintField(v)
			if err == nil && h.window > maxCredit {
				err = fmt.Errorf("window %d is over %d", h.window, int64(maxCredit))
			}
		case tagStreams:
			h.streams, err = UintField(v)
		case tagResumeWindow:
			var ms uint64
			ms, err = UintField(v)
			h.resumeWindow = time.Duration(min(ms, 24*3600*1000)) * time.Millisecond
		case tagSoftware:
			h.software = cleanReason(string(v[:min(len(v), 128)]))
		}
		return err
	})
}

func fixed(dst, v []byte, field string) error {
	if len(v) != len(dst) {
		return fmt.Errorf("%s has %d bytes, it takes %d", field, len(v), len(dst))
	}
	copy(dst, v)
	return nil
}

// record encodes h as a whole record of that kind.
func (h *hello) record(kind recordKind) []byte {
	b := make([]byte, recordHeader, 256)
	if kind == recHello {
		b = append(b, magic[:]...)
		b = append(b, h.minVersion, h.maxVersion)
	} else {
		b = append(b, h.maxVersion)
	}
	b = h.appendFields(b, kind)
	putRecordHeader(b, kind, len(b)-recordHeader)
	return b
}

func parseHello(body []byte) (*hello, error) {
	if len(body) < 6 || [4]byte(body) != magic {
		return nil, errors.New("not a HELLO: it does not begin with \"adit\" and a version window")
	}
	h := &hello{minVersion: body[4], maxVersion: body[5]}
	if h.minVersion > h.maxVersion {
		return nil, fmt.Errorf("version window %d to %d is empty", h.minVersion, h.maxVersion)
	}
	return h, h.parseFields(body[6:])
}

func parseWelcome(body []byte) (*hello, error) {
	if len(body) < 1 {
		return nil, errors.New("WELCOME without version")
	}
	h := &hello{minVersion: body[0], maxVersion: body[0]}
	return h, h.parseFields(body[1:])
}

// sideProof is what proves to the other side that secret is known. side is
// "dialler" or "listener".
func sideProof(secret *secretKey, side string, session sessionID, attempt, received uint64) (p proof) {
	m := hmac.New(sha256.New, secret[:])
	io.WriteString(m, "adit resume "+side)
	m.Write(session[:])
	var n [16]byte
	binary.BigEndian.PutUint64(n[:8], attempt)
	binary.BigEndian.PutUint64(n[8:], received)
	m.Write(n[:])
	m.Sum(p[:0])
	return p
}

func (p *proof) equal(q *proof) bool { return hmac.Equal(p[:], q[:]) }

// Codes of REJECT.
const (
	rejectVersion   = 1
	rejectGone      = 2
	rejectOffset    = 3
	rejectBusy      = 4
	rejectMalformed = 5
)

// A RejectedError is the listener's refusal of a handshake.
type RejectedError struct {
	Code       uint16 // as in docs/protocol/native.md
	Reason     string
	RetryAfter time.Duration // zero if the listener named none
}

func (e *RejectedError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("session rejected: code %d", e.Code)
	}
	return fmt.Sprintf("session rejected: %s (code %d)", e.Reason, e.Code)
}

// Gone reports whether the session that should have been resumed does not
// exist any more: a new one has to be started.
func (e *RejectedError) Gone() bool { return e.Code == rejectGone || e.Code == rejectOffset }

func (e *RejectedError) record() []byte {
	b := make([]byte, recordHeader, 128)
	b = binary.BigEndian.AppendUint16(b, e.Code)
	b = AppendStringField(b, tagReason, cleanReason(e.Reason))
	if e.RetryAfter > 0 {
		b = AppendUintField(b, tagRetryAfter, uint64(e.RetryAfter/time.Millisecond))
	}
	if e.Code == rejectVersion {
		b = AppendField(b, tagVersions, []byte{minVersion, maxVersion})
	}
	putRecordHeader(b, recReject, len(b)-recordHeader)
	return b
}

func parseReject(body []byte) error {
	code, rest, ok := parseCode(body)
	if !ok {
		return errors.New("REJECT without code")
	}
	e := &RejectedError{Code: code}
	err := ParseFields(rest, func(tag uint64, v []byte) (err error) {
		switch tag {
		case tagReason:
			e.Reason = cleanReason(string(v))
		case tagRetryAfter:
			var ms uint64
			ms, err = UintField(v)
			e.RetryAfter = time.Duration(min(ms, 3600*1000)) * time.Millisecond
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("REJECT: %w", err)
	}
	return e
}

// readHandshake reads one record of a handshake and not a byte more.
func readHandshake(conn net.Conn) (recordKind, []byte, error) {
	var h [recordHeader]byte
	if _, err := io.ReadFull(conn, h[:]); err != nil {
		return 0, nil, err
	}
	kind, length := parseRecordHeader(h[:])
	if length > maxHandshake {
		return 0, nil, fmt.Errorf("record of kind %#x with %d bytes in the handshake: at most %d", byte(kind), length, maxHandshake)
	}
	body := make([]byte, length)
	_, err := io.ReadFull(conn, body)
	return kind, body, err
}
