package adit

import (
	"errors"
	"time"

	"adit/agent"
	"adit/dialect/native"
)

var (
	// ErrRefused says that the server was reached and said no. The error that
	// wraps it is a *RefusedError.
	ErrRefused = errors.New("adit: refused by the server")

	// ErrSuperseded says that another program with the same ID and instance
	// has taken over; see WithInstance.
	ErrSuperseded = agent.ErrSuperseded
)

// A RefusedError is a server's refusal. It wraps ErrRefused.
type RefusedError struct {
	// Code is a stable name of the reason, such as "invalid-credential",
	// "forbidden", "name-taken" or "port-in-use"; docs/errors.md has all of
	// them. It is empty if what answered is not an adit server.
	Code string

	// Reason is for people.
	Reason string

	// RetryAfter is for how long the server does not want to be asked again;
	// 0 if it does not say.
	RetryAfter time.Duration
}

func (e *RefusedError) Error() string {
	if e.Code == "" {
		return "refused by the server: " + e.Reason
	}
	return "refused by the server: " + e.Reason + " (" + e.Code + ")"
}

// Unwrap returns ErrRefused.
func (e *RefusedError) Unwrap() error { return ErrRefused }

// A tokenError is the program's own failure to give a credential.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return "token: " + e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }

// translate puts an agent's error in the terms of this package. passing says
// that it may not come again though nothing is changed.
func translate(err error) (_ error, passing bool) {
	if r, ok := native.RefusalOf(err); ok {
		return &RefusedError{Code: r.Code, Reason: r.Reason, RetryAfter: r.RetryAfter}, r.Passing
	}
	if te := (*tokenError)(nil); errors.As(err, &te) {
		return te, false
	}
	return err, !errors.Is(err, ErrSuperseded)
}
