package session

import (
	"errors"
	"fmt"
	"net"
)

var (
	// ErrClosed says that this side ended the session, or the other side did
	// in good order.
	ErrClosed = errors.New("session: closed")

	// ErrLost says that the session had no carrier for longer than its
	// resume window, or could not be resumed.
	ErrLost = errors.New("session: lost")

	// ErrDraining says that one of the sides takes no new streams.
	ErrDraining = errors.New("session: draining")

	// ErrStreamClosed is what methods of a stream return after Close. It
	// wraps net.ErrClosed.
	ErrStreamClosed = fmt.Errorf("session: stream: %w", net.ErrClosed)

	// ErrStopped says that the other side of a stream does not read any more.
	ErrStopped = errors.New("session: far side stopped reading")

	// ErrDead is why a carrier was given up that had been silent for too long.
	ErrDead = errors.New("session: carrier is silent")
)

// A ProtocolError is a violation of docs/protocol/native.md by the other side.
type ProtocolError struct{ Reason string }

func (e *ProtocolError) Error() string { return "session: protocol error: " + e.Reason }

func protocolErrorf(format string, args ...any) error {
	return &ProtocolError{fmt.Sprintf(format, args...)}
}

// Codes of CLOSE.
const (
	CloseDone       = 0
	CloseProtocol   = 1
	CloseCredential = 2
	CloseSuperseded = 3
	CloseShutdown   = 4
	CloseOverflow   = 5
)

// A ClosedError is the end of a session that one side announced with a CLOSE.
// It wraps ErrClosed.
type ClosedError struct {
	Code   uint16 // as in docs/protocol/native.md
	Reason string
	Remote bool // the other side sent it
}

func (e *ClosedError) Error() string {
	who := "here"
	if e.Remote {
		who = "by the other side"
	}
	if e.Reason == "" {
		return fmt.Sprintf("session: closed %s (code %d)", who, e.Code)
	}
	return fmt.Sprintf("session: closed %s: %s (code %d)", who, e.Reason, e.Code)
}

// Unwrap returns ErrClosed.
func (e *ClosedError) Unwrap() error { return ErrClosed }

// A ResetError is what Read and Write of a stream return after one side reset
// it.
type ResetError struct {
	Code   uint16
	Reason string
	Remote bool // the other side sent it
}

func (e *ResetError) Error() string {
	return fmt.Sprintf("session: stream reset: %s (code %d)", orNone(e.Reason), e.Code)
}

// A RefusedError is the other side's answer to Open if it does not accept.
type RefusedError struct {
	Code   uint16
	Reason string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("session: stream refused: %s (code %d)", orNone(e.Reason), e.Code)
}

func orNone(s string) string {
	if s == "" {
		return "no reason given"
	}
	return s
}
