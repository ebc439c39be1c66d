package wsmux_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"adit/dialect/websocktunnel/wsmux"
	"adit/internal/wsframe"
	"adit/tunnel"
)

func (r *raw) expectACK(stream uint32) int {
	r.t.Helper()
	f := r.next()
	if f.typ != wsmux.ACK || f.stream != stream {
		r.t.Fatalf("got %v, want ACK of %d", f, stream)
	}
	return f.credit()
}

// Writing takes place within the credit, and goes on with more.
func TestCredit(t *testing.T) {
	t.Parallel()
	s, r := start(t, wsmux.Server, wsmux.Options{})
	st := open(t, s, r, 10)
	wrote := make(chan error, 1)
	go func() {
		_, err := io.WriteString(st, "0123456789abcdefghij-")
		wrote <- err
	}()
	r.expect(wsmux.DAT, 0, "0123456789")
	r.ack(0, 1)
	r.expect(wsmux.DAT, 0, "a")
	r.ack(0, 0)
	for range 2 {
		r.send(wsmux.ACK, 0, "\xff\xff\xff\xff")
	}
	r.expect(wsmux.DAT, 0, "bcdefghij-")
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	for range 3 { // an empty DAT is no end and no garbage
		r.send(wsmux.DAT, 0, "")
	}
	r.send(wsmux.DAT, 0, "x")
	read(t, st, "x")
}

// An agent that knows nothing of its server sends 4096 bytes, and more when it
// learns that the server takes them.
func TestFirstCredit(t *testing.T) {
	t.Parallel()
	s, r := start(t, wsmux.Agent, wsmux.Options{})
	r.send(wsmux.SYN, 0, "")
	st, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := st.Write(make([]byte, 100_000)) // accepts the stream
		wrote <- err
	}()
	if n := r.expectACK(0); n != 4<<20 {
		t.Errorf("first ACK %d, want 4 MiB", n)
	}
	r.expect(wsmux.DAT, 0, string(make([]byte, 4096)))
	s.SetPeerWindow(50_000)
	got := 4096
	for got < 50_000 {
		got += len(r.next().payload)
	}
	if got != 50_000 {
		t.Errorf("%d bytes, want 50000", got)
	}
	r.ack(0, 50_000)
	for got < 100_000 {
		got += len(r.next().payload)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// Agents send as much as their own window before they are given any credit, and
// get it back as it is read, but never more.
func TestHoldsWhatOriginalsSend(t *testing.T) {
	t.Parallel()
	const window = 4 << 20
	s, r := start(t, wsmux.Server, wsmux.Options{})
	st := open(t, s, r, window)
	other := open(t, s, r, window)
	piece := strings.Repeat("0123456789abcdef", 2048) // 32 KiB
	for range window / len(piece) {
		r.send(wsmux.DAT, 0, piece)
	}
	r.send(wsmux.DAT, 2, "not delayed")
	read(t, other, "not delayed")
	for range window / len(piece) {
		read(t, st, piece)
	}
	credit := 0
	st.Close()
	for {
		f := r.next()
		if f.typ == wsmux.FIN {
			break
		}
		credit += f.credit()
	}
	r.send(wsmux.FIN, 0, "")
	if credit > window || credit < window-4096 {
		t.Errorf("credit of %d for %d bytes", credit, window)
	}
}

// A side that sends more than it may loses that stream and no other.
func TestOverrun(t *testing.T) {
	t.Parallel()
	for _, extended := range []bool{false, true} {
		t.Run(fmt.Sprint("extended ", extended), func(t *testing.T) {
			t.Parallel()
			s, r := start(t, wsmux.Server, wsmux.Options{Extended: extended, PeerWindow: 4 << 20, MaxWindow: 64 << 10, Window: 64 << 10})
			st := open(t, s, r, 64<<10)
			other := open(t, s, r, 64<<10)
			r.send(wsmux.DAT, 0, string(make([]byte, 64<<10+1)))
			if extended {
				r.expect(wsmux.RST, 0, "\x05\x00more bytes than there was credit for")
			} else {
				r.expect(wsmux.FIN, 0, "")
			}
			_, err := io.Copy(io.Discard, struct{ io.Reader }{st})
			if re, ok := errors.AsType[*tunnel.ResetError](err); !ok || re.Code != tunnel.ResetOverload {
				t.Errorf("Read: %v, want a reset with overload", err)
			}
			if _, err := st.Write([]byte("x")); err == nil {
				t.Error("Write: got no error")
			}
			r.send(wsmux.DAT, 0, "and more")
			r.send(wsmux.FIN, 0, "")
			r.send(wsmux.DAT, 2, "unharmed")
			read(t, other, "unharmed")
			if n := s.Streams(); n != 1 {
				t.Errorf("%d streams, want 1", n)
			}
		})
	}
}

// What all streams of a session hold is bounded. The streams that nobody reads
// make room for those that somebody does, and those whose bytes are dropped get
// their credit back: an original that waits for it would not see the end.
func TestMaxHeld(t *testing.T) {
	t.Parallel()
	for _, extended := range []bool{false, true} {
		t.Run(fmt.Sprint("extended ", extended), func(t *testing.T) {
			t.Parallel()
			s, r := start(t, wsmux.Server, wsmux.Options{Extended: extended, MaxHeld: 100_000})
			stalled, second, reads := open(t, s, r, 100), open(t, s, r, 100), open(t, s, r, 100)
			piece := strings.Repeat("x", 40_000)
			r.send(wsmux.DAT, 0, piece)
			r.send(wsmux.DAT, 2, piece)
			const rounds = 4
			for range rounds {
				r.send(wsmux.DAT, 4, piece)
				read(t, reads, piece)
			}
			if _, err := io.Copy(io.Discard, struct{ io.Reader }{stalled}); err == nil {
				t.Error("the stream that nobody read for longest: got no error")
			}
			if extended {
				for f := r.next(); f != (frame{wsframe.Binary, wsmux.RST, 0, "\x05\x00too many bytes of the session wait for their readers"}); f = r.next() {
					if f.typ != wsmux.ACK || f.stream != 4 {
						t.Fatalf("got %v, want the end of stream 0", f)
					}
				}
			} else {
				credit, ended := 0, false
				for credit < len(piece) || !ended {
					switch f := r.next(); {
					case f.stream == 0 && f.typ == wsmux.ACK:
						credit += f.credit()
					case f.stream == 0 && f.typ == wsmux.FIN:
						ended = true
					case f.stream != 4 || f.typ != wsmux.ACK:
						t.Fatalf("got %v, want the end of stream 0, and credit", f)
					}
				}
				r.send(wsmux.DAT, 0, "what was on its way")
				r.send(wsmux.FIN, 0, "")
			}
			read(t, second, piece)
			r.send(wsmux.DAT, 4, piece)
			read(t, reads, piece)
			if n := s.Streams(); n != 2 {
				t.Errorf("%d streams, want 2", n)
			}
		})
	}
	t.Run("one stream", func(t *testing.T) {
		t.Parallel()
		s, r := start(t, wsmux.Server, wsmux.Options{MaxHeld: 100_000})
		st := open(t, s, r, 100)
		r.send(wsmux.DAT, 0, strings.Repeat("x", 100_001))
		r.expect(wsmux.FIN, 0, "")
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{st}); err == nil {
			t.Error("got no error")
		}
	})
}

// With the extension a window grows where the path holds the sender up.
func TestWindowGrows(t *testing.T) {
	t.Parallel()
	s, r := start(t, wsmux.Agent, wsmux.Options{Extended: true, Window: 16 << 10, PeerWindow: 4096})
	// The answer to the ping tells a long way.
	var ping frame
	for ping.op != wsframe.Ping {
		var err error
		if ping, err = readFrame(r.conn, true); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(20 * time.Millisecond) // is the round trip, and no wait for anything
	r.message(wsframe.Pong, []byte(ping.payload))
	r.send(wsmux.SYN, 0, "")
	st, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	st.Accepted()
	if n := r.expectACK(0); n != 0 {
		t.Errorf("first ACK %d, want 0: both know the window", n)
	}
	go io.Copy(io.Discard, struct{ io.Reader }{st})
	credit := 16 << 10
	for sent := 0; credit < 1<<20; {
		n := min(credit-sent, 4096)
		if n > 0 {
			r.send(wsmux.DAT, 0, string(make([]byte, n)))
			sent += n
			continue
		}
		got := r.expectACK(0)
		if got == 0 {
			t.Fatal("credit of 0")
		}
		credit += got - n
		if sent > 256<<20 {
			t.Fatalf("no more than %d in flight after %d bytes", credit-sent, sent)
		}
	}
}
