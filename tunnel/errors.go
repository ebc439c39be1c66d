package tunnel

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed says that a tunnel has ended.
	ErrClosed = errors.New("tunnel: closed")

	// ErrRefused says that the agent refused a stream. The error that wraps
	// it is a *RefusedError.
	ErrRefused = errors.New("tunnel: stream refused")

	// ErrNoRoute says that no tunnel goes by a name, now or lately.
	ErrNoRoute = errors.New("tunnel: no route")

	// ErrOffline says that a name is known, and that none of its tunnels
	// became available in time.
	ErrOffline = errors.New("tunnel: agent offline")

	// ErrBlocked says that the operator of the server has blocked a name.
	ErrBlocked = errors.New("tunnel: name blocked")

	// ErrQueueFull says that too many visitors wait for a tunnel already.
	ErrQueueFull = errors.New("tunnel: queue full")
)

// A RefuseCode says why an agent refused a stream. The numbers are those of
// the native protocol's REFUSE frame; docs/protocol/native.md lists them.
type RefuseCode uint16

const (
	RefuseInternal        RefuseCode = 1 // the agent failed in a way of its own
	RefuseUnknownService  RefuseCode = 2 // the agent has no such service
	RefuseUpstreamRefused RefuseCode = 3 // the upstream refused or is unreachable
	RefuseUpstreamTimeout RefuseCode = 4 // the upstream did not answer the dial in time
	RefuseForbidden       RefuseCode = 5 // a rule of the agent forbids it
	RefuseBusy            RefuseCode = 6 // too many streams; try again later
	RefuseDraining        RefuseCode = 7 // the agent takes no new streams
	RefuseUnknownHost     RefuseCode = 8 // a target's name does not exist
	RefuseUnreachable     RefuseCode = 9 // there is no way to a target, or its agent is away
)

// String returns the code's name as in docs/errors.md, such as
// "upstream-refused".
func (c RefuseCode) String() string {
	switch c {
	case RefuseInternal:
		return "internal"
	case RefuseUnknownService:
		return "unknown-service"
	case RefuseUpstreamRefused:
		return "upstream-refused"
	case RefuseUpstreamTimeout:
		return "upstream-timeout"
	case RefuseForbidden:
		return "forbidden"
	case RefuseBusy:
		return "busy"
	case RefuseDraining:
		return "draining"
	case RefuseUnknownHost:
		return "unknown-host"
	case RefuseUnreachable:
		return "unreachable"
	}
	return fmt.Sprintf("code-%d", uint16(c))
}

// A RefusedError is an agent's refusal to open a stream. It wraps ErrRefused.
type RefusedError struct {
	Code   RefuseCode
	Reason string // for people; may be empty; not to be trusted or parsed
}

func (e *RefusedError) Error() string {
	if e.Reason == "" {
		return "stream refused: " + e.Code.String()
	}
	return fmt.Sprintf("stream refused: %s: %s", e.Code, e.Reason)
}

// Unwrap returns ErrRefused.
func (e *RefusedError) Unwrap() error { return ErrRefused }

// A ResetCode says why one side aborted a stream. The numbers are those of the
// native protocol's RESET frame.
type ResetCode uint16

const (
	ResetInternal  ResetCode = 1 // a fault of the side that resets
	ResetCancelled ResetCode = 2 // nobody wants the rest
	ResetUpstream  ResetCode = 3 // the conn behind the stream failed
	ResetTimeout   ResetCode = 4 // a time limit passed
	ResetOverload  ResetCode = 5 // the receiver ran out of buffer for it
)

// String returns the code's name, such as "cancelled".
func (c ResetCode) String() string {
	switch c {
	case ResetInternal:
		return "internal"
	case ResetCancelled:
		return "cancelled"
	case ResetUpstream:
		return "upstream"
	case ResetTimeout:
		return "timeout"
	case ResetOverload:
		return "overload"
	}
	return fmt.Sprintf("code-%d", uint16(c))
}

// A ResetError is what Read and Write of a stream return after the far side
// reset it.
type ResetError struct {
	Code   ResetCode
	Reason string // for people; may be empty; not to be trusted or parsed
}

func (e *ResetError) Error() string {
	if e.Reason == "" {
		return "stream reset: " + e.Code.String()
	}
	return fmt.Sprintf("stream reset: %s: %s", e.Code, e.Reason)
}
