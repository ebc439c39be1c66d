package native_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"adit/carrier"
	"adit/dialect"
	"adit/dialect/native"
	"adit/session"
)

func TestRefusalOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		err  error
		want native.Refusal
		ok   bool
	}{
		{"none", errors.New("network is unreachable"), native.Refusal{}, false},
		{
			"credential",
			&carrier.DialError{Err: &carrier.StatusError{StatusCode: 401, Code: "invalid-credential", Body: "it is not known"}},
			native.Refusal{Code: "invalid-credential", Reason: "it is not known"}, true,
		},
		{
			"no reason",
			&carrier.StatusError{StatusCode: 403, Code: "forbidden"},
			native.Refusal{Code: "forbidden", Reason: "forbidden"}, true,
		},
		{
			"busy",
			&carrier.StatusError{StatusCode: 503, Code: "busy", Body: "later", RetryAfter: time.Second},
			native.Refusal{Code: "busy", Reason: "later", RetryAfter: time.Second, Passing: true}, true,
		},
		{
			"not adit",
			&carrier.StatusError{StatusCode: 404, Body: "<html>"},
			native.Refusal{Reason: "the answer is 404 Not Found, and not from an adit server that agents may use"}, true,
		},
		{
			"a gateway without its server",
			&carrier.StatusError{StatusCode: 502},
			native.Refusal{Reason: "the answer is 502 Bad Gateway, and not from an adit server that agents may use", Passing: true}, true,
		},
		{
			"version",
			fmt.Errorf("start session: %w", &session.RejectedError{Code: 1, Reason: "versions 9 to 9 are not spoken here"}),
			native.Refusal{Reason: "versions 9 to 9 are not spoken here"}, true,
		},
		{
			"full",
			&session.RejectedError{Code: 4, Reason: "too many sessions", RetryAfter: time.Second},
			native.Refusal{Reason: "too many sessions", RetryAfter: time.Second, Passing: true}, true,
		},
		{
			"name",
			&dialect.BindError{Code: dialect.BindTaken, Reason: "it belongs to another credential"},
			native.Refusal{Code: "name-taken", Reason: "it belongs to another credential"}, true,
		},
		{
			"server's fault",
			&dialect.BindError{Code: dialect.BindInternal, Reason: "not now"},
			native.Refusal{Code: "internal", Reason: "not now", Passing: true}, true,
		},
		{
			"expired",
			&session.ClosedError{Code: session.CloseCredential, Reason: "the credential has expired", Remote: true},
			native.Refusal{Code: "expired-credential", Reason: "the credential has expired"}, true,
		},
		{ // the server was restarted: what comes next is a new session
			"session that is not there any more",
			fmt.Errorf("session: lost: %w", &session.RejectedError{Code: 2, Reason: "no such session"}),
			native.Refusal{}, false,
		},
		{"closed here", &session.ClosedError{Code: session.CloseCredential}, native.Refusal{}, false},
		{"shutdown", &session.ClosedError{Code: session.CloseShutdown, Remote: true}, native.Refusal{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got, ok := native.RefusalOf(tt.err); got != tt.want || ok != tt.ok {
				t.Errorf("got %+v, %v; want %+v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}
