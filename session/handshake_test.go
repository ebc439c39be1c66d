package session_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/memnet"
	"adit/session"
)

// TestHello sends a listener all kinds of first records.
func TestHello(t *testing.T) {
	t.Parallel()
	const hangUp = 0 // instead of a REJECT code
	const welcome = -1
	pad := func(n int) []byte { // a HELLO of n bytes
		b := field(1000, make([]byte, n-6-4))
		return hello(1, 1, b)
	}
	for _, tt := range []struct {
		name string
		send []byte
		want int
	}{
		{"version 1", hello(1, 1), welcome},
		{"wide version window", hello(0, 255), welcome},
		{"older versions only", hello(0, 0), 1},
		{"newer versions only", hello(2, 9), 1},
		{"empty version window", hello(2, 1), 5},
		{"other magic", record(recHello, []byte("atid\x01\x01")), 5},
		{"shorter than its fixed part", record(recHello, []byte("adit\x01")), 5},
		{"empty", record(recHello), 5},
		{"BATCH instead", record(recBatch, make([]byte, 16)), 5},
		{"unknown kind instead", record(0x77), 5},
		{"field runs over the end", hello(1, 1, []byte{tagWindow, 3, 1}), 5},
		{"tag without length", hello(1, 1, []byte{tagWindow}), 5},
		{"endless uvarint", hello(1, 1, bytes.Repeat([]byte{0xff}, 30)), 5},
		{"session too short", hello(1, 1, field(tagSession, make([]byte, 15))), 5},
		{"proof too long", hello(1, 1, field(tagProof, make([]byte, 33))), 5},
		{"window is no uvarint", hello(1, 1, field(tagWindow, []byte{0x80})), 5},
		{"window with bytes behind", hello(1, 1, field(tagWindow, []byte{1, 1})), 5},
		{"window over 2^62", hello(1, 1, uintField(tagWindow, 1<<62+1)), 5},
		{"window of 2^62", hello(1, 1, uintField(tagWindow, 1<<62)), welcome},
		{"unknown fields", hello(1, 1, field(13, nil), field(1<<40, []byte("x")), generous()), welcome},
		{"field twice, the second malformed", hello(1, 1, uintField(tagWindow, 5), field(tagWindow, nil)), welcome},
		{"field twice, the first malformed", hello(1, 1, field(tagWindow, nil), uintField(tagWindow, 5)), 5},
		{"4096 bytes", pad(4096), welcome},
		{"4097 bytes", pad(4097), hangUp},
		{"16 MiB announced", []byte{recHello, 0xff, 0xff, 0xff}, hangUp},
		{"session without proof", hello(1, 1, field(tagSession, make([]byte, 16))), 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := session.NewAcceptor(nil)
			near, far := memnet.Pipe()
			p := newRawPeer(t, near)
			p.write(tt.send)
			s, _, err := a.Accept(t.Context(), far, nil, nil)
			if tt.want == welcome {
				if err != nil {
					t.Fatalf("Accept: %v", err)
				}
				defer s.Close()
				kind, body := p.read()
				if kind != recWelcome || body[0] != 1 {
					t.Errorf("answer of kind %#x with version %d, want WELCOME with version 1", kind, body[0])
				}
				return
			}
			if err == nil {
				t.Fatal("Accept: no error")
			}
			if n := a.Len(); n != 0 {
				t.Errorf("%d sessions are kept, want none", n)
			}
			kind, body, rerr := p.tryRead()
			switch {
			case tt.want == hangUp:
				if rerr == nil {
					t.Errorf("answer of kind %#x, want none", kind)
				}
				return
			case rerr != nil:
				t.Fatalf("no answer (%v), want REJECT %d", rerr, tt.want)
			case kind != recReject || int(body[1]) != tt.want:
				t.Fatalf("answer of kind %#x, %x, want REJECT %d", kind, body, tt.want)
			}
			f := fields(t, body[2:])
			if len(f[tagReason]) == 0 {
				t.Error("REJECT without a reason")
			}
			if got := f[tagVersions]; tt.want == 1 && string(got) != "\x01\x01" {
				t.Errorf("REJECT 1 with versions %x, want 0101", got)
			}
			if _, _, err := p.tryRead(); err == nil {
				t.Error("carrier lives on after REJECT")
			}
		})
	}
}

// TestHelloCut ends the carrier at each byte of a HELLO.
func TestHelloCut(t *testing.T) {
	t.Parallel()
	whole := hello(1, 1, generous())
	for n := range whole {
		a := session.NewAcceptor(nil)
		near, far := memnet.Pipe()
		near.Write(whole[:n])
		near.CloseWrite()
		if _, _, err := a.Accept(t.Context(), far, nil, nil); err == nil {
			t.Errorf("Accept after %d of %d bytes: no error", n, len(whole))
		}
		near.Close()
	}
}

// TestSlowHello lets bytes of a HELLO drip: the listener hangs up after 10 s.
func TestSlowHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memnet.Pipe()
		var wg sync.WaitGroup
		defer wg.Wait()
		defer near.Close()
		wg.Go(func() {
			for _, b := range hello(1, 1, generous()) {
				if _, err := near.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		begin := time.Now()
		_, _, err := session.NewAcceptor(nil).Accept(t.Context(), far, nil, nil)
		if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || took != 10*time.Second {
			t.Errorf("Accept ends after %v with %v, want after 10s with a deadline", took, err)
		}
	})
}

// TestSlowWelcome is the same for the dialler, and for one whose ctx is shorter.
func TestSlowWelcome(t *testing.T) {
	for _, tt := range []struct {
		name  string
		limit time.Duration
		want  time.Duration
	}{
		{"own limit", time.Hour, 10 * time.Second},
		{"limit of the caller", 3 * time.Second, 3 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := memnet.Pipe()
				defer near.Close()
				ctx, cancel := context.WithTimeout(t.Context(), tt.limit)
				defer cancel()
				begin := time.Now()
				_, err := session.Dial(ctx, far, nil)
				if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || took != tt.want {
					t.Errorf("Dial ends after %v with %v, want after %v with a deadline", took, err, tt.want)
				}
			})
		})
	}
}

// TestAnswers gives a dialler all kinds of answers.
func TestAnswers(t *testing.T) {
	t.Parallel()
	reject := func(code uint16, f ...[]byte) []byte { return record(recReject, u16(code), join(f...)) }
	id, secret := bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 32)
	whole := join(field(tagSession, id), field(tagSecret, secret))
	for _, tt := range []struct {
		name string
		send []byte
		want string // part of the error; empty for none
		code uint16 // of a RejectedError
	}{
		{"welcome", record(recWelcome, []byte{1}, whole), "", 0},
		{"unknown fields", record(recWelcome, []byte{1}, field(99, nil), whole), "", 0},
		{"version above the window", record(recWelcome, []byte{2}, whole), "version 2", 0},
		{"version below the window", record(recWelcome, []byte{0}, whole), "version 0", 0},
		{"without version", record(recWelcome), "without version", 0},
		{"without session", record(recWelcome, []byte{1}, field(tagSecret, secret)), "session", 0},
		{"without secret", record(recWelcome, []byte{1}, field(tagSession, id)), "secret", 0},
		{"secret too short", record(recWelcome, []byte{1}, field(tagSecret, make([]byte, 31))), "secret", 0},
		{"field runs over the end", record(recWelcome, []byte{1}, []byte{tagWindow, 9}), "runs over", 0},
		{"5000 bytes", record(recWelcome, []byte{1}, field(99, make([]byte, 5000))), "at most 4096", 0},
		{"HELLO", hello(1, 1), "kind 0x1", 0},
		{"REJECT without code", record(recReject, []byte{1}), "without code", 0},
		{"REJECT with malformed fields", reject(2, []byte{10, 9}), "runs over", 0},
		{"no common version", reject(1, field(tagVersions, []byte{7, 8})), "code 1", 1},
		{"gone", reject(2, field(tagReason, []byte("a\x00\xffb"))), "a??b (code 2)", 2},
		{"offset", reject(3), "code 3", 3},
		{"busy", reject(4, uintField(tagRetryAfter, 2500)), "code 4", 4},
		{"unknown code", reject(4711), "code 4711", 4711},
		{"overlong reason", reject(5, field(tagReason, bytes.Repeat([]byte("x"), 3000))), strings.Repeat("x", 256) + " (code 5)", 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			near, far := memnet.Pipe()
			p := newRawPeer(t, near)
			p.write(tt.send)
			s, err := session.Dial(t.Context(), far, nil)
			if tt.want == "" {
				if err != nil {
					t.Fatalf("Dial: %v", err)
				}
				near.Close()
				s.Close()
				return
			}
			if err == nil {
				s.Close()
				t.Fatalf("Dial: no error, want one with %q", tt.want)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Dial: %v, want an error with %q", err, tt.want)
			}
			var re *session.RejectedError
			if errors.As(err, &re) != (tt.code != 0) || re != nil && re.Code != tt.code {
				t.Errorf("Dial: %#v, want a RejectedError of code %d (0 is none)", re, tt.code)
			}
			if re != nil && re.Gone() != (tt.code == 2 || tt.code == 3) {
				t.Errorf("Gone is %v for code %d", re.Gone(), tt.code)
			}
			if tt.code == 4 && re.RetryAfter != 2500*time.Millisecond {
				t.Errorf("retry after %v, want 2.5s", re.RetryAfter)
			}
			if _, err := far.Write([]byte("x")); err == nil {
				t.Error("conn is open after Dial has failed")
			}
		})
	}
}
