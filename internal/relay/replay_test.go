package relay_test

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"adit/internal/relay"
	"adit/internal/replay"
)

func TestReplays(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		idle time.Duration
	}{
		{"as it is", 0},
		{"with a look at it", time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			visitor, a := pair(t)
			b, upstream := pair(t)
			var seen []byte
			done := make(chan outcome, 1)
			go func() {
				res, err := relay.Relay(replay.New(a, []byte("first ")), b, relay.Options{
					Idle:  tt.idle,
					FromA: func(p []byte) { seen = append(seen, p...) },
				})
				done <- outcome{res, err}
			}()
			first := make([]byte, 6)
			if _, err := io.ReadFull(upstream, first); err != nil || string(first) != "first " {
				t.Fatalf("before the visitor sent more: got %q, %v, want what was read before", first, err)
			}
			io.WriteString(visitor, "second")
			visitor.CloseWrite()
			if got, err := io.ReadAll(upstream); string(got) != "second" || err != nil {
				t.Errorf("upstream got %q, %v, want second and the end", got, err)
			}
			io.WriteString(upstream, "answer")
			upstream.Close()
			if got, err := io.ReadAll(visitor); string(got) != "answer" || err != nil {
				t.Errorf("visitor got %q, %v, want answer and the end", got, err)
			}
			o := <-done
			if want := (relay.Result{AtoB: 12, BtoA: 6}); o.res != want || o.err != nil {
				t.Errorf("Relay: got %v, %v, want %v", o.res, o.err, want)
			}
			if string(seen) != "first second" {
				t.Errorf("FromA saw %q, want first second", seen)
			}
		})
	}
}

// TestReplayResets sees that the abilities of the socket below are not lost.
func TestReplayResets(t *testing.T) {
	t.Parallel()
	visitor, a := pair(t)
	b, upstream := pair(t)
	aborted := make(chan net.Conn, 2)
	done := make(chan outcome, 1)
	go func() {
		res, err := relay.Relay(replay.New(a, []byte("first")), b, relay.Options{Abort: func(c net.Conn, _ error) {
			aborted <- c
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}})
		done <- outcome{res, err}
	}()
	io.ReadFull(upstream, make([]byte, 5))
	upstream.SetLinger(0)
	upstream.Close()
	if _, err := visitor.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("visitor's read: got %v, want a reset", err)
	}
	<-done
	for range 2 {
		if c := <-aborted; c != a && c != b {
			t.Errorf("Abort got %T, want the socket below", c)
		}
	}
}
