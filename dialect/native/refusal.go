package native

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"adit/auth"
	"adit/carrier"
	"adit/dialect"
	"adit/session"
)

// A Refusal is the word of a server that was reached and said no.
type Refusal struct {
	// Code is one of docs/errors.md. It is empty if what answered is not an
	// adit server, or one that speaks another version.
	Code string

	// Reason is for people: one line, at most about 1 KiB, without anything
	// that the agent sent.
	Reason string

	// RetryAfter is for how long the server does not want to be asked again;
	// 0 if it does not say.
	RetryAfter time.Duration

	// Passing says that the server may say yes the next time though nothing
	// has been changed.
	Passing bool
}

// RefusalOf reports whether err, of Dial, Serve, Bind or another method of a
// Session, is or wraps a refusal.
func RefusalOf(err error) (r Refusal, ok bool) {
	var (
		status   *carrier.StatusError
		rejected *session.RejectedError
		bind     *dialect.BindError
		closed   *session.ClosedError
	)
	switch {
	case errors.As(err, &status):
		return statusRefusal(status), true
	case errors.As(err, &rejected) && !rejected.Gone(): // which is the end of one session alone
		return Refusal{Reason: rejected.Reason, RetryAfter: rejected.RetryAfter, Passing: rejected.RetryAfter > 0}, true
	case errors.As(err, &bind):
		return Refusal{Code: string(bind.Code), Reason: bind.Reason, Passing: bind.Code == dialect.BindInternal}, true
	case errors.As(err, &closed) && closed.Remote && closed.Code == session.CloseCredential:
		return Refusal{Code: string(auth.ExpiredCredential), Reason: closed.Reason}, true
	}
	return Refusal{}, false
}

// statusRefusal is a refusal in the form of an HTTP status.
func statusRefusal(e *carrier.StatusError) Refusal {
	r := Refusal{Code: e.Code, Reason: e.Body, RetryAfter: e.RetryAfter}
	switch {
	case e.Code == "":
		r.Reason = fmt.Sprintf("the answer is %d %s, and not from an adit server that agents may use", e.StatusCode, http.StatusText(e.StatusCode))
		r.Passing = e.StatusCode >= 500 || e.StatusCode == http.StatusRequestTimeout || e.StatusCode == http.StatusTooManyRequests
	case e.StatusCode >= 500:
		r.Passing = true
	}
	if r.Reason == "" {
		r.Reason = r.Code
	}
	return r
}

// Refused reports whether err is the word of a server that was reached and
// said no, and for how long it does not want to be asked again.
func Refused(err error) (refused bool, retryAfter time.Duration) {
	r, refused := RefusalOf(err)
	return refused, r.RetryAfter
}
