package wsmux_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"adit/dialect/websocktunnel/wsmux"
	"adit/internal/wsframe"
	"adit/tunnel"
)

// Whatever is malformed ends the session with the close code and the text of
// the original, and then the connection.
func TestMalformed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		op       byte
		message  string
		extended bool
		code     int
		reason   string
	}{
		{"empty", wsframe.Binary, "", false, 1008, "malformed header"},
		{"four bytes", wsframe.Binary, "\x00\x01\x00\x00", false, 1008, "malformed header"},
		{"type 4", wsframe.Binary, "\x04\x00\x00\x00\x00", false, 1008, "malformed header"},
		{"type 5, extended", wsframe.Binary, "\x05\x00\x00\x00\x00\x00\x00", true, 1008, "malformed header"},
		{"type 255", wsframe.Binary, "\xff\x00\x00\x00\x00", false, 1008, "malformed header"},
		{"SYN with payload", wsframe.Binary, "\x01\x00\x00\x00\x00x", false, 1008, "malformed payload"},
		{"FIN with payload", wsframe.Binary, "\x03\x00\x00\x00\x00x", false, 1008, "malformed payload"},
		{"ACK without credit", wsframe.Binary, "\x02\x00\x00\x00\x00", false, 1008, "malformed payload"},
		{"ACK of three bytes", wsframe.Binary, "\x02\x00\x00\x00\x00abc", false, 1008, "malformed payload"},
		{"ACK of five bytes", wsframe.Binary, "\x02\x00\x00\x00\x00abcde", false, 1008, "malformed payload"},
		{"RST without a code", wsframe.Binary, "\x04\x00\x00\x00\x00x", true, 1008, "malformed payload"},
		{"RST too long", wsframe.Binary, "\x04\x00\x00\x00\x00" + strings.Repeat("x", 300), true, 1008, "malformed payload"},
		{"text", wsframe.Text, "hi", false, 1008, "unexpected non-binary websocket message"},
		{"continuation", wsframe.Continuation, "hi", false, 1002, "continuation frame outside of a message"},
	} {
		for _, role := range []wsmux.Role{wsmux.Server, wsmux.Agent} {
			t.Run(fmt.Sprintf("%s, role %d", tt.name, role), func(t *testing.T) {
				t.Parallel()
				s, r := start(t, role, wsmux.Options{Extended: tt.extended})
				r.message(tt.op, []byte(tt.message))
				if code, reason := r.closed(); code != tt.code || reason != tt.reason {
					t.Errorf("closed with %d %q, want %d %q", code, reason, tt.code, tt.reason)
				}
				<-s.Done()
				pe, ok := errors.AsType[*wsmux.ProtocolError](s.Err())
				if !ok || pe.Code != tt.code || !errors.Is(s.Err(), tunnel.ErrClosed) {
					t.Errorf("Err: %v, want a ProtocolError with %d", s.Err(), tt.code)
				}
			})
		}
	}
	t.Run("mask", func(t *testing.T) {
		t.Parallel()
		_, r := start(t, wsmux.Server, wsmux.Options{})
		r.masked = false
		r.send(wsmux.FIN, 0, "")
		r.masked = true
		if code, _ := r.closed(); code != 1002 {
			t.Errorf("a frame without a mask: closed with %d, want 1002", code)
		}
	})
}

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

// open opens a stream of s, which is a server, whose other side accepts it with
// a window.
func open(t *testing.T, s *wsmux.Session, r *raw, window int) *wsmux.Stream {
	t.Helper()
	type opened struct {
		st  *wsmux.Stream
		err error
	}
	ch := make(chan opened, 1)
	go func() {
		st, err := s.Open(t.Context())
		ch <- opened{st, err}
	}()
	f := r.next()
	if f.typ != wsmux.SYN || f.payload != "" {
		t.Fatalf("got %v, want SYN", f)
	}
	r.ack(f.stream, window)
	o := <-ch
	if o.err != nil {
		t.Fatalf("Open: %v", o.err)
	}
	t.Cleanup(func() { o.st.Close() })
	return o.st
}

func (r *raw) expectACK(stream uint32) int {
	r.t.Helper()
	f := r.next()
	if f.typ != wsmux.ACK || f.stream != stream {
		r.t.Fatalf("got %v, want ACK of %d", f, stream)
	}
	return f.credit()
}

func read(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Fatalf("read %.60q, %v; want %.60q", b, err, want)
	}
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
	r.ack(0, 1<<32-1)
	r.ack(0, 1<<32-1)
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

// A close frame ends the session, is answered, and the connection is closed.
func TestCloseFrame(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		payload string
		answer  int
		code    int
	}{{"", 1000, 1005}, {"\x03\xe8", 1000, 1000}, {"\x03\xe9away", 1001, 1001}, {"\x11\x39x", 4409, 4409}} {
		s, r := start(t, wsmux.Server, wsmux.Options{})
		r.message(wsframe.Close, []byte(tt.payload))
		if code, _ := r.closed(); code != tt.answer {
			t.Errorf("close frame %q was answered with %d, want %d", tt.payload, code, tt.answer)
		}
		<-s.Done()
		if ce, ok := errors.AsType[*wsmux.CloseError](s.Err()); !ok || ce.Code != tt.code {
			t.Errorf("close frame %q: Err: %v, want code %d", tt.payload, s.Err(), tt.code)
		}
	}
}

// Only an agent with the extension is told that another took over.
func TestSupersede(t *testing.T) {
	t.Parallel()
	for extended, want := range map[bool]int{false: 0, true: 4409} {
		s, r := start(t, wsmux.Server, wsmux.Options{Extended: extended})
		done := make(chan error, 1)
		go func() { done <- s.Supersede() }()
		if code, _ := r.closed(); code != want {
			t.Errorf("extended %v: closed with %d, want %d", extended, code, want)
		}
		r.conn.Close()
		if err := <-done; err != nil || !errors.Is(s.Err(), wsmux.ErrSuperseded) {
			t.Errorf("Supersede: %v, and then %v", err, s.Err())
		}
	}
	s, r := start(t, wsmux.Agent, wsmux.Options{Extended: true})
	r.message(wsframe.Close, []byte("\x11\x39"))
	<-s.Done()
	if !errors.Is(s.Err(), wsmux.ErrSuperseded) {
		t.Errorf("the agent's: %v, want %v", s.Err(), wsmux.ErrSuperseded)
	}
}

// Both sides send a ping and a pong at once and every 20 s, and give up a side
// that says nothing.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	for _, role := range []wsmux.Role{wsmux.Server, wsmux.Agent} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			s, r := startInMemory(t, role, wsmux.Options{})
			var seen []string
			answers := 3
			for {
				f, err := readFrame(r.conn, role == wsmux.Agent)
				if err != nil {
					break
				}
				seen = append(seen, fmt.Sprintf("%d at %v", f.op, time.Since(began)))
				if f.op == wsframe.Ping && answers > 0 {
					answers--
					r.message(wsframe.Pong, nil)
				}
			}
			want := "[10 at 0s 9 at 0s 10 at 20s 9 at 20s 10 at 40s 9 at 40s 10 at 1m0s 9 at 1m0s]"
			if fmt.Sprint(seen) != want {
				t.Errorf("got %v, want %s", seen, want)
			}
			<-s.Done()
			if !errors.Is(s.Err(), wsmux.ErrSilent) || time.Since(began) != 80*time.Second {
				t.Errorf("ended after %v with %v, want 80 s and %v", time.Since(began), s.Err(), wsmux.ErrSilent)
			}
			s.Close()
			r.conn.Close()
		})
	}
}

// A pong that nobody asked for is a sign of life, as webhooktunnel of December
// 2018 needs it.
func TestUnaskedPongs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, r := startInMemory(t, wsmux.Server, wsmux.Options{})
		go io.Copy(io.Discard, r.conn)
		for range 20 {
			time.Sleep(15 * time.Second)
			r.message(wsframe.Pong, []byte("unasked"))
		}
		if err := s.Err(); err != nil {
			t.Errorf("ended with %v", err)
		}
		s.Close()
		r.conn.Close()
	})
}

// A flood of pings that the sender does not read the answers of costs no
// memory.
func TestPingFlood(t *testing.T) {
	t.Parallel()
	s, r := start(t, wsmux.Server, wsmux.Options{})
	payload := []byte(strings.Repeat("p", 125))
	for range 100_000 {
		r.message(wsframe.Ping, payload)
	}
	st := open(t, s, r, 10)
	r.send(wsmux.DAT, 0, "well")
	read(t, st, "well")
}

// The first bytes of all are the answer to the handshake, and a ping comes with
// them; nothing is sent or read before Start.
func TestStart(t *testing.T) {
	t.Parallel()
	a, b := sockets(t)
	s := wsmux.New(a, wsmux.Server, wsmux.Options{Extended: true, PeerWindow: 4096})
	defer s.Close()
	st, err := s.OpenEarly()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(st, "early"); err != nil {
		t.Fatal(err)
	}
	b.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := b.Read(make([]byte, 1)); n > 0 {
		t.Fatalf("%d bytes before Start, %v", n, err)
	}
	b.SetDeadline(time.Now().Add(patience))
	s.Start([]byte("HTTP/1.1 101\r\n\r\n"))
	read(t, b, "HTTP/1.1 101\r\n\r\n")
	r := &raw{t, b, true}
	r.expect(wsmux.SYN, 0, "")
	r.expect(wsmux.DAT, 0, "early")
}

func TestReject(t *testing.T) {
	t.Parallel()
	a, b := sockets(t)
	s := wsmux.New(a, wsmux.Server, wsmux.Options{})
	s.Reject([]byte("HTTP/1.1 403\r\n\r\n"))
	if all, err := io.ReadAll(b); string(all) != "HTTP/1.1 403\r\n\r\n" || err != nil {
		t.Errorf("got %q, %v", all, err)
	}
	s.Close()
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
