package session_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"adit/internal/memnet"
	"adit/session"
)

const window = 256 << 10 // first credit, by default

// data is one DATA frame after the other, n bytes in all.
func data(id uint64, n int) (b []byte) {
	for n > 0 {
		k := min(n, 64<<10)
		b = append(b, frame(frData, id, make([]byte, k))...)
		n -= k
	}
	return b
}

// TestProtocolErrors breaks each rule of the page, as the dialler: the session
// ends with CLOSE 1, on this side with a *ProtocolError, and another session of
// the same acceptor goes on.
func TestProtocolErrors(t *testing.T) {
	t.Parallel()
	// Each case has stream 1 opened by the raw side, and stream 2 by the
	// other; neither is answered yet.
	raw := func(b ...[]byte) func(*rawPeer) { return func(p *rawPeer) { p.write(join(b...)) } }
	seq := func(b ...[]byte) func(*rawPeer) { return func(p *rawPeer) { p.send(b...) } }
	for _, tt := range []struct {
		name   string
		do     func(p *rawPeer)
		reason string
	}{
		{"record over 1 MiB", raw(append([]byte{recBatch}, 0x10, 0, 1)), "at most 1048576"},
		{"unknown record over 1 MiB", raw(append([]byte{0x77}, 0xff, 0xff, 0xff)), "at most 1048576"},
		{"BATCH without its fixed part", raw(record(recBatch, make([]byte, 15))), "at least 16"},
		{"empty BATCH", raw(record(recBatch)), "at least 16"},
		{"ACK without its fixed part", raw(record(recAck, make([]byte, 7))), "at least 8"},
		{"PING without its fixed part", raw(record(recPing, make([]byte, 15))), "at least 16"},
		{"PONG without its fixed part", raw(record(recPong, make([]byte, 15))), "at least 16"},
		{"CLOSE without its fixed part", raw(record(recClose, make([]byte, 9))), "at least 10"},
		{"HELLO again", raw(hello(1, 1)), "after the handshake"},
		{"WELCOME", raw(record(recWelcome, []byte{1})), "after the handshake"},
		{"REJECT", raw(record(recReject, u16(1))), "after the handshake"},
		{"ACK beyond what was sent", raw(record(recAck, u64(1<<40))), "acknowledged 1099511627776 bytes"},
		{"ack of BATCH beyond what was sent", raw(record(recBatch, u64(1<<64-1), u64(0))), "acknowledged"},
		{"ack of PING beyond what was sent", raw(record(recPing, u64(1<<40), u64(0))), "acknowledged"},
		{"ack of CLOSE beyond what was sent", raw(record(recClose, u64(1<<40), u16(0))), "acknowledged"},

		{"OPEN with the other side's parity", seq(frame(frOpen, 4)), "OPEN of stream 4"},
		{"OPEN of an open stream", seq(frame(frOpen, 1)), "OPEN of stream 1"},
		{"OPEN below an id used before", seq(frame(frOpen, 9), frame(frOpen, 7)), "OPEN of stream 7"},
		{"OPEN of stream 0", seq(frame(frOpen, 0)), "OPEN of stream 0"},
		{"OPEN of a stream that is gone", seq(frame(frReset, 1, u16(2)), frame(frOpen, 1)), "OPEN of stream 1"},
		{"OPEN with 4097 bytes", seq(frame(frOpen, 3, make([]byte, 4097))), "at most 4096"},

		{"ACCEPT for a stream never opened", seq(frame(frAccept, 4)), "never opened"},
		{"REFUSE for a stream never opened", seq(frame(frRefuse, 4, u16(1))), "never opened"},
		{"DATA for a stream never opened", seq(frame(frData, 3, []byte("x"))), "never opened"},
		{"empty DATA for a stream never opened", seq(frame(frData, 3)), "never opened"},
		{"DATA for stream 0", seq(frame(frData, 0)), "never opened"},
		{"END for a stream never opened", seq(frame(frEnd, 4)), "never opened"},
		{"CREDIT for a stream never opened", seq(frame(frCredit, 4, u32(1))), "never opened"},
		{"RESET for a stream never opened", seq(frame(frReset, 1<<63+1, u16(1))), "never opened"},
		{"STOP for a stream never opened", seq(frame(frStop, 3, u16(1))), "never opened"},

		{"DATA over its limit", seq(frame(frData, 1, make([]byte, session.MaxData+1))), "at most"},
		{"END over its limit", seq(frame(frEnd, 1, make([]byte, session.MaxData+1))), "at most"},
		{"DATA over the credit", seq(data(1, window), frame(frData, 1, []byte("x"))), "credit of 0"},
		{"END over the credit", seq(data(1, window), frame(frEnd, 1, []byte("x"))), "credit of 0"},
		{"DATA behind END", seq(frame(frEnd, 1), frame(frData, 1, []byte("x"))), "behind its END"},
		{"empty DATA behind END", seq(frame(frEnd, 1), frame(frData, 1)), "behind its END"},
		{"END behind END", seq(frame(frEnd, 1), frame(frEnd, 1)), "behind its END"},

		{"CREDIT without its number", seq(frame(frCredit, 2, []byte{0, 0, 1})), "CREDIT with 3 bytes"},
		{"CREDIT with 65 bytes", seq(frame(frCredit, 2, make([]byte, 65))), "at most 64"},
		{"RESET without a code", seq(frame(frReset, 2, []byte{1})), "without a code"},
		{"RESET with 513 bytes", seq(frame(frReset, 2, make([]byte, 513))), "at most 512"},
		{"REFUSE without a code", seq(frame(frRefuse, 2)), "without a code"},
		{"STOP without a code", seq(frame(frStop, 2)), "without a code"},
		{"STOP with 513 bytes", seq(frame(frStop, 2, make([]byte, 513))), "at most 512"},
		{"DRAIN with 513 bytes", seq(frame(frDrain, 0, make([]byte, 513))), "at most 512"},

		{"REFUSE behind ACCEPT", seq(frame(frAccept, 2), frame(frRefuse, 2, u16(1))), "was accepted"},
		{"REFUSE behind DATA", seq(frame(frData, 2, []byte("x")), frame(frRefuse, 2, u16(1))), "was accepted"},
		{"REFUSE behind END", seq(frame(frEnd, 2), frame(frRefuse, 2, u16(1))), "was accepted"},
		{"REFUSE by the opener", seq(frame(frRefuse, 1, u16(1))), "was accepted"},

		{"CALL without method", seq(frame(frCall, 1, []byte{0})), "CALL without method"},
		{"CALL with 16385 bytes", seq(frame(frCall, 1, make([]byte, 16385))), "at most 16384"},
		{"RESULT without status", seq(frame(frResult, 1, []byte{0})), "RESULT without status"},
		{"RESULT without a call", seq(frame(frResult, 1, u16(0))), "not waiting"},
		{"17 calls at once", func(p *rawPeer) {
			for i := range uint64(17) {
				p.send(frame(frCall, i+1, u16(0)))
			}
		}, "more than 16 calls"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := session.NewAcceptor(&session.Options{
				Handle: func(ctx context.Context, s *session.Session, method uint16, _ []byte) (uint16, []byte) {
					if method == 0 { // 999 is for wantAlive
						<-ctx.Done()
					}
					return 2, nil
				},
			})
			bystander, other := acceptRaw(t, a)
			p, s := acceptRaw(t, a)
			p.send(frame(frOpen, 1))
			in := accept(t, s)
			out, err := s.Open(nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := out.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			p.want(frOpen, 2)
			p.want(frData, 2)

			tt.do(p)
			if c := p.wantClose(1); !strings.Contains(c.Reason, tt.reason) {
				t.Errorf("CLOSE with reason %q, want %q in it", c.Reason, tt.reason)
			}
			err = ended(t, s)
			var pe *session.ProtocolError
			if !errors.As(err, &pe) || !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("session ended with %v, want a ProtocolError with %q", err, tt.reason)
			}
			for _, st := range []*session.Stream{in, out} {
				io.Copy(io.Discard, st) // what has arrived can still be read
				if _, err := st.Write([]byte("x")); err == nil {
					t.Error("stream can be written after its session failed")
				}
			}
			bystander.wantAlive(1)
			if err := other.Err(); err != nil {
				t.Errorf("the other session ended too: %v", err)
			}
			settle(t, "the acceptor keeps one session", func() bool { return a.Len() == 1 })
		})
	}
}

// TestCreditOverflow adds up credit beyond 2^62.
func TestCreditOverflow(t *testing.T) {
	t.Parallel()
	a := session.NewAcceptor(nil)
	p, s, err := tryRaw(t, a, hello(1, 1, uintField(tagStreams, 8), uintField(tagWindow, 1<<62-1<<32)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(nil); err != nil {
		t.Fatal(err)
	}
	p.send(frame(frCredit, 2, u32(1<<32-1)), frame(frCredit, 2, u32(1)), frame(frCall, 1, u16(999)))
	p.want(frOpen, 2)
	p.want(frResult, 1)
	p.send(frame(frCredit, 2, u32(1)))
	if c := p.wantClose(1); !strings.Contains(c.Reason, "2^62") {
		t.Errorf("CLOSE with reason %q, want one that names 2^62", c.Reason)
	}
}

// TestTolerated sends what a later version may add, and what crosses on the
// way: the session goes on.
func TestTolerated(t *testing.T) {
	t.Parallel()
	pong := func(p *rawPeer, extra int) []byte {
		return record(recPong, u64(p.taken.Load()), u64(0), make([]byte, extra))
	}
	gone := func(p *rawPeer) { // stream 1 is opened and reset
		p.send(frame(frOpen, 1), frame(frReset, 1, u16(2)))
	}
	for _, tt := range []struct {
		name string
		do   func(p *rawPeer)
	}{
		{"unknown record", func(p *rawPeer) { p.write(record(0x77, make([]byte, 1000))) }},
		{"empty unknown record", func(p *rawPeer) { p.write(record(0x00)) }},
		{"unknown record of 1 MiB", func(p *rawPeer) { p.write(record(0xff, make([]byte, 1<<20))) }},
		{"bytes behind ACK", func(p *rawPeer) { p.write(record(recAck, u64(0), make([]byte, 100))) }},
		{"bytes behind PING", func(p *rawPeer) { p.write(record(recPing, u64(0), u64(7), make([]byte, 100))) }},
		{"bytes behind PONG", func(p *rawPeer) { p.write(pong(p, 100)) }},
		{"PONG nobody asked for", func(p *rawPeer) { p.write(pong(p, 0)) }},
		{"older ack", func(p *rawPeer) {
			p.wantAlive(100)
			p.write(record(recAck, u64(p.taken.Load())))
			p.write(record(recAck, u64(0)))
		}},
		{"BATCH of no bytes", func(p *rawPeer) { p.send() }},
		{"repeated bytes", func(p *rawPeer) {
			b := frame(0x70, 0, []byte("a frame of a later version"))
			p.send(b)
			for at := range b {
				p.seq = uint64(at)
				p.send(b[at:])
			}
		}},
		{"repeated bytes and new ones in one BATCH", func(p *rawPeer) {
			b := frame(0x70, 0, []byte("a frame of a later version"))
			p.send(b[:20])
			p.seq = 3
			p.send(b[3:])
		}},
		{"BATCH that ends before what is known", func(p *rawPeer) {
			b := frame(0x70, 0, make([]byte, 100))
			p.send(b)
			p.seq = 10
			p.send(b[10:20])
			p.seq = uint64(len(b))
		}},
		{"frame in pieces", func(p *rawPeer) {
			for _, c := range frame(frOpen, 1, []byte("metadata")) {
				p.send([]byte{c})
			}
			gone := frame(frReset, 1, u16(2), []byte("reason"))
			p.send(gone[:13])
			p.send(gone[13:])
		}},
		{"unknown frame", func(p *rawPeer) { p.send(frame(0x70, 77, []byte("x"))) }},
		{"empty unknown frame", func(p *rawPeer) { p.send(frame(0x00, 0)) }},
		{"unknown frame of 16 MiB", func(p *rawPeer) {
			b := frame(0x70, 77, make([]byte, 1<<24-1))
			for len(b) > 0 {
				n := min(len(b), 1<<20-16)
				p.send(b[:n])
				b = b[n:]
			}
		}},
		{"DATA for a stream that is gone", func(p *rawPeer) { gone(p); p.send(data(1, 100)) }},
		{"much DATA for a stream that is gone", func(p *rawPeer) { gone(p); p.send(data(1, 3*window)) }},
		{"END for a stream that is gone", func(p *rawPeer) { gone(p); p.send(frame(frEnd, 1, []byte("x"))) }},
		{"CREDIT for a stream that is gone", func(p *rawPeer) { gone(p); p.send(frame(frCredit, 1, u32(1))) }},
		{"RESET for a stream that is gone", func(p *rawPeer) { gone(p); p.send(frame(frReset, 1, u16(1))) }},
		{"STOP for a stream that is gone", func(p *rawPeer) { gone(p); p.send(frame(frStop, 1, u16(1))) }},
		{"ACCEPT for a stream that is gone", func(p *rawPeer) { gone(p); p.send(frame(frAccept, 1)) }},
		{"bytes behind CREDIT", func(p *rawPeer) { p.send(frame(frOpen, 1), frame(frCredit, 1, u32(1), make([]byte, 60))) }},
		{"bytes behind ACCEPT", func(p *rawPeer) { gone(p); p.send(frame(frAccept, 1, make([]byte, 4096))) }},
		{"exactly the credit", func(p *rawPeer) { p.send(frame(frOpen, 1), data(1, window)); p.send(frame(frEnd, 1)) }},
		{"OPEN with 4096 bytes", func(p *rawPeer) { p.send(frame(frOpen, 1, make([]byte, 4096))) }},
		{"ids with gaps", func(p *rawPeer) { p.send(frame(frOpen, 1), frame(frOpen, 1<<62+1), frame(frOpen, 1<<64-1)) }},
		{"CALL with 16384 bytes", func(p *rawPeer) {
			p.send(frame(frCall, 77, u16(9), make([]byte, 16382)))
			p.want(frResult, 77)
		}},
		{"DRAIN twice", func(p *rawPeer) { p.send(frame(frDrain, 0, []byte("a")), frame(frDrain, 0)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, s := acceptRaw(t, session.NewAcceptor(nil))
			tt.do(p)
			for {
				p.send(frame(frCall, 1, u16(999)))
				f, ok := p.next()
				if !ok {
					t.Fatalf("session ended: %v, %v", p.closed, s.Err())
				}
				if f.typ == frResult && f.id == 1 {
					return
				}
			}
		})
	}
}

// TestGap leaves bytes out: the carrier is to blame, and the session resumes.
func TestGap(t *testing.T) {
	t.Parallel()
	a := session.NewAcceptor(nil)
	p, s := acceptRaw(t, a)
	b := frame(frOpen, 1, []byte("metadata"))
	p.send(b[:5])
	p.seq++
	p.send(b[6:])
	<-s.Detached()
	if err := s.Err(); err != nil {
		t.Fatalf("session ended: %v", err)
	}
	for p.take() {
	}
	if p.closed != nil {
		t.Fatalf("%v, want the carrier to end without CLOSE", p.closed)
	}
	p2, _, err := tryRaw(t, a, p.resumeHello(1, p.taken.Load()))
	if err != nil {
		t.Fatal(err)
	}
	p2.seq = 5
	p2.taken.Store(p.taken.Load())
	p2.send(b[5:])
	if got := string(accept(t, s).Meta()); got != "metadata" {
		t.Errorf("metadata is %q, want %q", got, "metadata")
	}
}

// TestReasonsAreCleaned sends reasons that are too long, no UTF-8, or not
// printable.
func TestReasonsAreCleaned(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, send, want string }{
		{"printable", "grüße, 世界", "grüße, 世界"},
		{"empty", "", ""},
		{"control characters", "a\x00b\nc\x1b[31m", "a?b?c?[31m"},
		{"no UTF-8", "a\xff\xfeb", "a??b"},
		{"too long", strings.Repeat("x", 500), strings.Repeat("x", 256)},
		{"cut within a character", strings.Repeat("x", 255) + "世", strings.Repeat("x", 255)},
		{"line separators", "a\u2028b\u202ec", "a?b?c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := session.NewAcceptor(nil)
			p, s := acceptRaw(t, a)
			p.send(frame(frOpen, 1), frame(frReset, 1, u16(3), []byte(tt.send)))
			_, err := accept(t, s).Read(make([]byte, 1))
			var re *session.ResetError
			if !errors.As(err, &re) || re.Reason != tt.want || re.Code != 3 || !re.Remote {
				t.Errorf("Read: %#v, want a remote ResetError with code 3 and reason %q", err, tt.want)
			}

			out, err := s.Open(nil)
			if err != nil {
				t.Fatal(err)
			}
			p.send(frame(frRefuse, 2, u16(5), []byte(tt.send)))
			err = out.WaitAccepted(t.Context())
			var fe *session.RefusedError
			if !errors.As(err, &fe) || fe.Reason != tt.want || fe.Code != 5 {
				t.Errorf("WaitAccepted: %#v, want a RefusedError with code 5 and reason %q", err, tt.want)
			}

			p.write(record(recClose, u64(0), u16(7), []byte(tt.send)))
			var ce *session.ClosedError
			if err := ended(t, s); !errors.As(err, &ce) || ce.Reason != tt.want || ce.Code != 7 || !ce.Remote {
				t.Errorf("session ended with %#v, want a remote ClosedError with code 7 and reason %q", err, tt.want)
			}

			// And what this side says.
			p, s = acceptRaw(t, a)
			p.send(frame(frOpen, 1))
			if err := accept(t, s).Reset(9, tt.send); err != nil {
				t.Fatal(err)
			}
			s.Drain(tt.send)
			if f := p.want(frReset, 1); f.code() != 9 || string(f.payload[2:]) != tt.want {
				t.Errorf("RESET %d with reason %q, want 9, %q", f.code(), f.payload[2:], tt.want)
			}
			if f := p.want(frDrain, 0); string(f.payload) != tt.want {
				t.Errorf("DRAIN with reason %q, want %q", f.payload, tt.want)
			}
			s.CloseWith(4, tt.send)
			if c := p.wantClose(4); c.Reason != tt.want || !utf8.ValidString(c.Reason) {
				t.Errorf("CLOSE with reason %q, want %q", c.Reason, tt.want)
			}
		})
	}
}

// TestDiallerJudges breaks rules as the listener: the dialler is no less strict.
func TestDiallerJudges(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		send []byte
	}{
		{"OPEN with an odd id", frame(frOpen, 1)},
		{"DATA over the credit", join(frame(frOpen, 2), data(2, window+1))},
		{"DATA for a stream never opened", frame(frData, 1, []byte("x"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, s := dialRaw(t, nil)
			p.send(tt.send)
			p.wantClose(1)
			var pe *session.ProtocolError
			if err := ended(t, s); !errors.As(err, &pe) {
				t.Errorf("session ended with %v, want a ProtocolError", err)
			}
		})
	}
}

// TestSplits delivers one conversation in pieces of each size: what is in it
// must not depend on where the carrier cuts.
func TestSplits(t *testing.T) {
	t.Parallel()
	payload := bytes.Repeat([]byte("payload "), 3000)
	seq := join(frame(frOpen, 1, []byte("metadata")), frame(frData, 1, payload), frame(0x70, 5, []byte("later")),
		frame(frEnd, 1, []byte("tail")))
	batch := record(recBatch, u64(0), u64(0), seq)
	whole := join(record(recAck, u64(0)), batch[:0], record(0x66, []byte("skip me")), batch, record(recPing, u64(0), u64(3)))
	for _, size := range []int{1, 2, 3, 5, 7, 11, 19, 20, 21, 1000, 4095, 4096, 4097, 16 << 10, len(whole)} {
		near, far := memnet.Pipe()
		p := newRawPeer(t, near)
		p.write(hello(1, 1, generous()))
		s, _, err := session.NewAcceptor(nil).Accept(t.Context(), &smallReads{far, size}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		go p.write(whole)
		st := accept(t, s)
		got, err := io.ReadAll(st)
		if err != nil || string(got) != string(payload)+"tail" || string(st.Meta()) != "metadata" {
			t.Errorf("reads of %d bytes: %d bytes with metadata %q, %v; want %d bytes, metadata", size, len(got), st.Meta(), err, len(payload)+4)
		}
		p.read() // WELCOME
		for kind, body := p.read(); ; kind, body = p.read() {
			if kind == recPong {
				if token := binary.BigEndian.Uint64(body[8:]); token != 3 {
					t.Errorf("PONG with token %d, want 3", token)
				}
				break
			}
		}
		near.Close()
		s.Close()
	}
}

// smallReads delivers a few bytes at a time.
type smallReads struct {
	*memnet.Conn
	n int
}

func (c *smallReads) Read(p []byte) (int, error) { return c.Conn.Read(p[:min(len(p), c.n)]) }
