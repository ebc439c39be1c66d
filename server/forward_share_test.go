package server_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"adit/auth"
	"adit/dialect/native"
	"adit/internal/testtcp"
	"adit/server"
	"adit/tunnel"
)

// A taker opens streams and keeps them.
type taker struct {
	*native.Session
	open []net.Conn
}

// newTaker connects with the token of a subject, or the secret if that is empty.
func (f *fixture) newTaker(t *testing.T, subject string) *taker {
	t.Helper()
	token := f.secret.Reveal()
	if subject != "" {
		token = f.mint(t, auth.TokenClaims{Subject: subject, Scope: auth.Scope{Forward: rules(t, "127.0.0.1:*")}})
	}
	s, err := f.dialSession(t, token)
	if err != nil {
		t.Fatal(err)
	}
	return &taker{Session: s}
}

// take opens streams until one is refused, and returns how many it has.
func (k *taker) take(t *testing.T, target tunnel.Target) int {
	t.Helper()
	for range 1000 {
		c, err := k.OpenTarget(t.Context(), target)
		if err != nil {
			if re, ok := errors.AsType[*tunnel.RefusedError](err); !ok || re.Code != tunnel.RefuseBusy {
				t.Fatalf("got %v, want busy", err)
			}
			return len(k.open)
		}
		k.open = append(k.open, c)
	}
	t.Fatal("a session gets as many streams as it wants")
	return 0
}

// startSharing starts a server with few forwards, and something that takes
// connections and says nothing.
func startSharing(t *testing.T, change func(*server.Options)) (*fixture, tunnel.Target) {
	t.Helper()
	at := testtcp.Serve(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	f := startForwardingWith(t, change, "127.0.0.1:*")
	a, err := net.ResolveTCPAddr("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	return f, tunnel.Target{Network: tunnel.TCP, Host: "127.0.0.1", Port: portOf(a)}
}

// Who takes all that it can get, with several sessions too, leaves enough to
// others.
func TestForwardShares(t *testing.T) {
	t.Parallel()
	const most = 70
	f, target := startSharing(t, func(o *server.Options) { o.MaxForwards = most })
	greedy, again := f.newTaker(t, "greedy"), f.newTaker(t, "greedy")
	modest, secret := f.newTaker(t, "modest"), f.newTaker(t, "")

	first := greedy.take(t, target)
	if first <= most/2 || first >= most*2/3 {
		t.Errorf("got %d streams of %d with one session, want more than half of them and no more than two thirds", first, most)
	}
	second := again.take(t, target)
	if second == 0 || first+second > most*2/3+1 {
		t.Errorf("got %d and %d streams of %d with two sessions of one credential, want both to have some, and two thirds in all", first, second, most)
	}
	other := modest.take(t, target)
	if other < most/10 {
		t.Errorf("another credential got %d of %d streams, want a tenth at least", other, most)
	}
	if n := secret.take(t, target); n == 0 {
		t.Error("the secret got no stream")
	}

	for _, c := range greedy.open {
		c.Close()
	}
	f.settled(t, func(st server.ForwardStats) bool { return st.Open <= most-first })
	if n := modest.take(t, target); n <= other {
		t.Errorf("got %d streams when others have ended theirs, want more than %d", n, other)
	}
}

func TestMaxForwardsPerSubject(t *testing.T) {
	t.Parallel()
	f, target := startSharing(t, func(o *server.Options) { o.MaxForwardsPerSubject = 5 })
	a, again, other := f.newTaker(t, "a"), f.newTaker(t, "a"), f.newTaker(t, "b")
	if n, m := a.take(t, target), again.take(t, target); n != 5 || m != 0 {
		t.Errorf("got %d and %d streams with one subject, want 5 and 0", n, m)
	}
	if n := other.take(t, target); n != 5 {
		t.Errorf("got %d streams with another subject, want 5", n)
	}
	secret := f.newTaker(t, "")
	for range 6 {
		c, err := secret.OpenTarget(t.Context(), target)
		if err != nil {
			t.Fatalf("the secret: %v", err)
		}
		defer c.Close()
	}
}

// settled waits until the forwards are as they should be.
func (f *fixture) settled(t *testing.T, ok func(server.ForwardStats) bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok(f.Stats().Forwards) {
		if time.Now().After(deadline) {
			t.Fatalf("got %+v", f.Stats().Forwards)
		}
		time.Sleep(time.Millisecond)
	}
}
