package session_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/session"
)

// A scriptConn yields bytes in pieces of random sizes and then ends. What is
// written to it is lost.
type scriptConn struct {
	b      []byte
	rng    *rand.Rand
	closed chan struct{}
	once   sync.Once
}

func newScriptConn(b []byte, seed uint64) *scriptConn {
	return &scriptConn{b: b, rng: rand.New(rand.NewPCG(seed, 0)), closed: make(chan struct{})}
}

func (c *scriptConn) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := 1 + c.rng.IntN(40)
	if c.rng.IntN(4) == 0 {
		n = len(c.b)
	}
	n = copy(p[:min(n, len(p))], c.b)
	c.b = c.b[n:]
	return n, nil
}

func (c *scriptConn) Write(p []byte) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
		return len(p), nil
	}
}

func (c *scriptConn) Close() error                     { c.once.Do(func() { close(c.closed) }); return nil }
func (c *scriptConn) LocalAddr() net.Addr              { return scriptAddr{} }
func (c *scriptConn) RemoteAddr() net.Addr             { return scriptAddr{} }
func (c *scriptConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptConn) SetWriteDeadline(time.Time) error { return nil }

type scriptAddr struct{}

func (scriptAddr) Network() string { return "script" }
func (scriptAddr) String() string  { return "script" }

// seeds adds what the dialler, or the listener, says in each flow behind the
// handshake of each carrier.
func seeds(f *testing.F, mark string) {
	for _, fl := range flows(f) {
		var b []byte
		for _, line := range fl.lines {
			if !strings.HasPrefix(line, mark) {
				continue
			}
			r, _ := parseRecord(f, line)
			if r[0] == recHello || r[0] == recWelcome || r[0] == recReject {
				continue
			}
			b = append(b, r...)
		}
		f.Add(b, uint64(1))
	}
}

// FuzzRecords has a peer say anything behind its handshake: the session holds
// no more memory than it may, and ends with its carrier.
func FuzzRecords(f *testing.F) {
	seeds(f, ">")
	f.Add(record(recBatch, u64(0), u64(0), frame(frOpen, 1), frame(frData, 1, make([]byte, 1000)), frame(frEnd, 1)), uint64(2))
	f.Fuzz(func(t *testing.T, script []byte, seed uint64) {
		const sendLimit, receiveLimit = 128 << 10, 256 << 10
		budget := session.NewBudget(1 << 20)
		a := session.NewAcceptor(&session.Options{
			ResumeWindow: -1, SendBuffer: sendLimit, ReceiveBuffer: receiveLimit, MaxStreams: 20, Window: 64 << 10, Budget: budget,
			Handle: func(_ context.Context, _ *session.Session, m uint16, b []byte) (uint16, []byte) { return m, b },
		})
		s, _, err := a.Accept(t.Context(), newScriptConn(append(hello(1, 1, generous()), script...), seed), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			if st, err := s.Open([]byte("m")); err == nil {
				wg.Go(func() { st.Write(make([]byte, 5000)); io.Copy(io.Discard, st); st.Close() })
			}
		}
		for i := 0; ; i++ {
			st, err := s.Accept(t.Context())
			if err != nil {
				break
			}
			wg.Go(func() {
				switch i % 4 {
				case 0:
					io.Copy(st, st)
					st.Close()
				case 1:
					st.Refuse(1, "no")
				case 2:
					st.Read(make([]byte, 10))
					st.Reset(2, "enough")
				case 3: // nobody reads this one
				}
			})
		}
		send, receive := s.Buffered()
		if send > sendLimit+1<<20+2*session.MaxData || receive > receiveLimit+session.MaxData {
			t.Errorf("%d and %d bytes are held, more than allowed", send, receive)
		}
		<-s.Done()
		if s.Err() == nil {
			t.Error("session has ended without an error")
		}
		s.Close()
		wg.Wait()
		if n := budget.Used(); n != 0 {
			t.Errorf("%d bytes are counted against the budget after the end, want none", n)
		}
		if n := a.Len(); n != 0 {
			t.Errorf("acceptor keeps %d sessions, want none", n)
		}
	})
}

// FuzzHello has anybody say anything first, to either side.
func FuzzHello(f *testing.F) {
	for _, fl := range flows(f) {
		for _, line := range fl.lines {
			if strings.HasPrefix(line, ">") || strings.HasPrefix(line, "<") {
				if r, _ := parseRecord(f, line); r[0] <= recReject {
					f.Add(r, uint64(1))
				}
			}
		}
	}
	f.Add(record(recReject, u16(4), uintField(tagRetryAfter, 1<<60), field(tagReason, []byte("\xff"))), uint64(1))
	f.Fuzz(func(t *testing.T, script []byte, seed uint64) {
		opts := &session.Options{ResumeWindow: -1}
		a := session.NewAcceptor(opts)
		if s, _, err := a.Accept(t.Context(), newScriptConn(script, seed), nil, nil); err == nil {
			s.Close()
		}
		if n := a.Len(); n != 0 {
			t.Errorf("acceptor keeps %d sessions, want none", n)
		}
		if s, err := session.Dial(t.Context(), newScriptConn(script, seed), opts); err == nil {
			s.Close()
		}
	})
}

// FuzzFields parses and writes fields again: the same fields come out.
func FuzzFields(f *testing.F) {
	f.Add(generous())
	f.Add([]byte{1, 2, 3})
	f.Add(field(1<<63, []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		var n int
		err := session.ParseFields(b, func(tag uint64, v []byte) error {
			again = session.AppendField(again, tag, v)
			n++
			if u, err := session.UintField(v); err == nil {
				if back, k := binary.Uvarint(v); back != u || k != len(v) {
					t.Errorf("%x is %d and %d", v, u, back)
				}
			}
			return nil
		})
		if err != nil {
			return
		}
		var third []byte
		if err := session.ParseFields(again, func(tag uint64, v []byte) error {
			third = session.AppendField(third, tag, v)
			n--
			return nil
		}); err != nil || n != 0 || !bytes.Equal(again, third) {
			t.Errorf("%x is written as %x, and that as %x, %v", b, again, third, err)
		}
	})
}
