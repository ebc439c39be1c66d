package wsmux_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"adit/dialect/websocktunnel/wsmux"
	"adit/internal/wsframe"
	"adit/tunnel"
)

func TestStrayFrames(t *testing.T) {
	t.Parallel()
	s, r := start(t, wsmux.Server, wsmux.Options{})
	r.send(wsmux.DAT, 77, "x")
	r.ack(78, 5)
	r.send(wsmux.FIN, 79, "")
	for i := range uint32(1000) {
		r.send(wsmux.SYN, 2*i+1, "") // nobody accepts those
	}
	if n := s.Streams(); n != 0 {
		t.Errorf("%d streams, want none", n)
	}
	st := open(t, s, r, 100)
	r.send(wsmux.DAT, 0, "well")
	read(t, st, "well")

	s, r = start(t, wsmux.Agent, wsmux.Options{})
	r.send(wsmux.DAT, 4, "x")
	r.ack(6, 5)
	r.send(wsmux.FIN, 8, "")
	r.send(wsmux.SYN, 8, "")
	r.send(wsmux.SYN, 8, "") // in use
	st, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	st.Accepted()
	r.expectACK(8)
	r.send(wsmux.SYN, 8, "")
	r.send(wsmux.DAT, 8, "well")
	read(t, st, "well")
	if n := s.Streams(); n != 1 {
		t.Errorf("%d streams, want 1", n)
	}
}

// A message comes in as many fragments as there are bytes in it, with pings in
// between.
func TestFragments(t *testing.T) {
	t.Parallel()
	s, r := start(t, wsmux.Server, wsmux.Options{})
	st := open(t, s, r, 100)
	text := "in small pieces"
	message := wsmux.AppendFrame(nil, wsmux.DAT, 0, []byte(text))
	for i, c := range message {
		op := byte(wsframe.Continuation)
		if i == 0 {
			op = wsframe.Binary
		}
		b := wsframe.Append(nil, op, 1, true, 0)
		if i < len(message)-1 {
			b[0] &^= 0x80 // not the last
		}
		for _, part := range append(b, c) { // and no byte in the same segment
			r.conn.Write([]byte{part})
		}
		r.message(wsframe.Ping, []byte{byte(i)})
	}
	read(t, st, text)
	r.send(wsmux.DAT, 0, "whole")
	read(t, st, "whole")
}

// After the FIN of this side an original still gets the credit that it waits
// for, sees the end, and says so: nothing is left.
func TestCloseWhileTheOtherSends(t *testing.T) {
	t.Parallel()
	s, r := start(t, wsmux.Server, wsmux.Options{})
	st := open(t, s, r, 4096)
	r.send(wsmux.DAT, 0, strings.Repeat("x", 4096))
	read(t, st, "xx")
	st.Close()
	credit := 0
	for fin := false; !fin || credit < 4096; {
		f := r.next()
		if f.typ == wsmux.FIN {
			fin = true
		} else {
			credit += f.credit()
		}
	}
	for range 10 {
		r.send(wsmux.DAT, 0, strings.Repeat("y", 2048))
		if n := r.expectACK(0); n != 2048 {
			t.Fatalf("credit of %d, want 2048", n)
		}
	}
	if n := s.Streams(); n != 1 {
		t.Errorf("%d streams before the other side's FIN, want 1", n)
	}
	r.send(wsmux.FIN, 0, "")
	r.send(wsmux.DAT, 0, "ignored")
	other := open(t, s, r, 10) // has come after
	if n := s.Streams(); n != 1 {
		t.Errorf("%d streams after it, want 1", n)
	}
	other.Close()
}

// A stream that the other side never ends is forgotten in the end.
func TestForgetsWhatNeverEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := startInMemory(t, wsmux.Agent, wsmux.Options{})
		go func() { // answers pings
			for {
				f, err := readFrame(r.conn, true)
				if err != nil {
					return
				}
				if f.op == wsframe.Ping {
					r.message(wsframe.Pong, []byte(f.payload))
				}
			}
		}()
		r.send(wsmux.SYN, 2, "")
		st, err := s.Accept()
		if err != nil {
			t.Fatal(err)
		}
		st.Close()
		time.Sleep(30 * time.Second)
		if n := s.Streams(); n != 1 {
			t.Errorf("%d streams after half a minute, want 1", n)
		}
		time.Sleep(time.Minute)
		if n := s.Streams(); n != 0 {
			t.Errorf("%d streams after more than a minute, want none", n)
		}
		s.Close()
		r.conn.Close()
	})
}

// FIN in the place of the first ACK refuses the stream, and so does RST.
func TestRefused(t *testing.T) {
	t.Parallel()
	s, r := start(t, wsmux.Server, wsmux.Options{})
	done := make(chan error, 1)
	go func() {
		_, err := s.Open(t.Context())
		done <- err
	}()
	r.next()
	r.send(wsmux.FIN, 0, "")
	if err := <-done; !errors.Is(err, tunnel.ErrRefused) {
		t.Errorf("Open: %v, want a refusal", err)
	}
	r.ack(0, 100) // ignored
	open(t, s, r, 100)
	if n := s.Streams(); n != 1 {
		t.Errorf("%d streams, want 1", n)
	}
}

// No more than so many streams wait to be accepted; the others wait here, and
// those that give up are made up for when the agent comes round to them.
func TestPacing(t *testing.T) {
	t.Parallel()
	s, r := start(t, wsmux.Server, wsmux.Options{MaxUnaccepted: 3})
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 10)
	for range 10 {
		go func() {
			_, err := s.Open(ctx)
			errs <- err
		}()
	}
	for i := range uint32(3) {
		r.expect(wsmux.SYN, 2*i, "")
	}
	r.ack(0, 100)
	r.expect(wsmux.SYN, 6, "") // and not before
	if err := <-errs; err != nil {
		t.Errorf("Open: %v", err)
	}
	cancel()
	for range 9 {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("Open: %v, want %v", err, context.Canceled)
		}
	}
	// Three are still in the agent's queue: it cannot be told.
	opened := make(chan error, 1)
	go func() {
		_, err := s.Open(t.Context())
		opened <- err
	}()
	r.ack(2, 100)
	fin, syn := r.next(), r.next()
	if syn.typ != wsmux.SYN {
		fin, syn = syn, fin
	}
	if fin.typ != wsmux.FIN || fin.stream != 2 || syn.typ != wsmux.SYN || syn.stream != 8 {
		t.Errorf("got %v and %v, want FIN of 2 and SYN of 8", fin, syn)
	}
	r.ack(8, 100)
	if err := <-opened; err != nil {
		t.Errorf("Open: %v", err)
	}
}

// Ids go up by two, pass over those in use, and wrap around.
func TestStreamIDs(t *testing.T) {
	t.Parallel()
	s, r := start(t, wsmux.Server, wsmux.Options{})
	s.SetNextID(1<<32 - 4)
	for _, want := range []uint32{1<<32 - 4, 1<<32 - 2, 0, 2} {
		done := make(chan error, 1)
		go func() {
			_, err := s.Open(t.Context())
			done <- err
		}()
		r.expect(wsmux.SYN, want, "")
		r.ack(want, 10)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	s.SetNextID(1<<32 - 2)
	go s.Open(t.Context())
	r.expect(wsmux.SYN, 4, "")
}
