package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"adit/tunnel"
)

func TestFailureTeller(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var now time.Time
	f := &failureTeller{out: &out, now: func() time.Time { return now }, told: make(map[string]time.Time)}
	forbidden := &tunnel.RefusedError{Code: tunnel.RefuseForbidden, Reason: "no rule allows this target"}
	fail := func(ctx context.Context, host string, err error) {
		t.Helper()
		open := f.watch(func(context.Context, tunnel.Target) (net.Conn, error) { return nil, err })
		if _, got := open(ctx, tunnel.Target{Network: tunnel.TCP, Host: host, Port: 22}); got != err {
			t.Errorf("got the error %v, want %v", got, err)
		}
	}
	printed := func(want string) {
		t.Helper()
		if got := out.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		out.Reset()
	}
	fail(t.Context(), "a\x1b", forbidden)
	printed("\"a\\x1b:22\": no rule allows this target (forbidden): the server's --forward and the credential both have to\n")
	fail(t.Context(), "a\x1b", forbidden)
	printed("")
	fail(t.Context(), "b", errors.New("connection refused"))
	printed("\"b:22\": not connected to the server: connection refused\n")
	now = now.Add(tellAgain)
	fail(t.Context(), "a\x1b", forbidden)
	printed("\"a\\x1b:22\": no rule allows this target (forbidden): the server's --forward and the credential both have to\n")

	left, leave := context.WithCancel(t.Context())
	leave()
	fail(left, "c", context.Canceled)
	printed("")

	for i := range 3 * tellMost {
		fail(t.Context(), fmt.Sprint(i), forbidden)
	}
	if got := bytes.Count(out.Bytes(), []byte("\n")); got != tellMost-1 {
		t.Errorf("got %d lines, want %d beside the one before", got, tellMost-1)
	}
}
