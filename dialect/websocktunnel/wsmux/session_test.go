package wsmux_test

import (
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
