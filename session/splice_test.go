package session_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"adit/internal/pipe"
	"adit/internal/wsconn"
	"adit/internal/wsframe"
	"adit/session"
)

// plainWebSocket returns the ends of a WebSocket over loopback whose payload is
// not masked, and the socket below the first.
func plainWebSocket(t testing.TB) (near *wsconn.Conn, socket net.Conn, far *wsconn.Conn) {
	socket, c := tcpPair(t)
	t.Cleanup(func() { socket.Close() })
	return wsconn.New(socket, wsconn.Client, wsconn.Options{ZeroMask: true}), socket, wsconn.New(c, wsconn.Server, wsconn.Options{})
}

// plainRaw starts a session of a on such a WebSocket, or resumes the one that
// greeting tells of. It returns the other side, the socket below it, the session
// and the body of WELCOME.
func plainRaw(t testing.TB, a *session.Acceptor, greeting []byte) (*rawPeer, net.Conn, *session.Session, []byte) {
	t.Helper()
	near, socket, far := plainWebSocket(t)
	p := newRawPeer(t, near)
	p.write(greeting)
	s, _, err := a.Accept(t.Context(), far, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	kind, body := p.read()
	if kind != recWelcome {
		t.Fatalf("answer to HELLO has kind %#x, want WELCOME", kind)
	}
	f := fields(t, body[1:])
	p.id, p.secret = f[tagSession], f[tagSecret]
	return p, socket, s, body
}

// message is a batch of one frame as the WebSocket message that carries it.
func (p *rawPeer) message(f []byte) []byte {
	b := record(recBatch, u64(p.taken.Load()), u64(p.seq), f)
	p.seq += uint64(len(f))
	return append(wsframe.Append(nil, wsframe.Binary, len(b), true, 0), b...)
}

// ramp is n bytes that differ from those around them, and from those of others.
func ramp(n, which int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16 ^ which*91)
	}
	return b
}

// TestLargeFramesSurviveTheCarrier cuts the carrier at every kind of place of a
// frame whose payload goes from socket to socket, while the reader's socket takes
// the bytes or is full.
func TestLargeFramesSurviveTheCarrier(t *testing.T) {
	t.Parallel()
	const size = 255 << 10
	const head = 14 + 20 + 12 // of the message, of the batch and of the frame
	for _, full := range []bool{false, true} {
		for _, cut := range []int{0, 1, 13, 14, 15, 33, 34, 45, head, head + 1, head + 70000, head + size - 1, head + size} {
			t.Run(fmt.Sprintf("after %d bytes, full %v", cut, full), func(t *testing.T) {
				t.Parallel()
				a := session.NewAcceptor(&session.Options{Window: 16 << 20})
				p, socket, s, _ := plainRaw(t, a, hello(1, 1, generous()))
				t.Cleanup(func() { s.Close() })
				p.send(frame(frOpen, 1))
				st := accept(t, s)
				st.Accepted()
				p.want(frAccept, 1)

				near, far := tcpPair(t)
				defer far.Close()
				var wg sync.WaitGroup
				defer wg.Wait()
				wg.Go(func() {
					defer near.Close()
					if n, err := st.WriteTo(near); err != nil {
						t.Errorf("WriteTo: %d, %v", n, err)
					}
					st.Close()
				})
				var got bytes.Buffer
				reads := func() { io.Copy(&got, far) }
				if full {
					near.(*net.TCPConn).SetWriteBuffer(16 << 10)
					far.(*net.TCPConn).SetReadBuffer(16 << 10)
				} else {
					wg.Go(reads)
				}

				// A first frame shows that there is bulk; the second is cut.
				var want []byte
				for i := range 3 {
					want = append(want, ramp(size, i)...)
				}
				socket.Write(p.message(frame(frData, 1, want[:size])))
				begun := p.seq
				socket.Write(p.message(frame(frData, 1, want[size:2*size]))[:cut])
				if cut > head {
					settle(t, "the beginning is taken in", func() bool { return s.Stats().Received >= begun+12 })
				}
				lost := s.Detached()
				socket.Close()
				<-lost

				p2, socket, _, body := plainRaw(t, a, p.resumeHello(1, p.taken.Load()))
				taken, err := session.UintField(fields(t, body[1:])[tagReceived])
				if err != nil {
					t.Fatal(err)
				}
				sequence := join(frame(frData, 1, want[:size]), frame(frData, 1, want[size:2*size]), frame(frData, 1, want[2*size:]), frame(frEnd, 1))
				opened := begun - uint64(size+12) // position behind OPEN
				if most := begun + uint64(max(0, cut-34)); taken > most {
					t.Fatalf("%d bytes are taken in, of %d", taken, most)
				}
				p2.seq = taken
				socket.Write(p2.message(sequence[taken-opened:]))
				if full {
					settle(t, "all is taken in", func() bool { return s.Stats().Received == opened+uint64(len(sequence)) })
					wg.Go(reads)
				}
				wg.Wait()
				if !bytes.Equal(got.Bytes(), want) {
					t.Errorf("got %d bytes that differ or are not all, want %d", got.Len(), len(want))
				}
			})
		}
	}
}

// TestPipesAreReadOtherwise takes bytes that wait in pipes for a socket in the
// other ways there are, or not at all.
func TestPipesAreReadOtherwise(t *testing.T) {
	t.Parallel()
	if !pipe.Works {
		t.Skip("no pipes on this system")
	}
	const size, frames = 255 << 10, 20
	for _, tt := range []struct {
		name string
		rest func(st *session.Stream) ([]byte, error)
	}{
		{"Read", func(st *session.Stream) ([]byte, error) { return io.ReadAll(struct{ io.Reader }{st}) }},
		{"WriteTo memory", func(st *session.Stream) ([]byte, error) {
			var b bytes.Buffer
			_, err := st.WriteTo(&b)
			return b.Bytes(), err
		}},
		{"Close", func(st *session.Stream) ([]byte, error) { return nil, st.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := session.NewAcceptor(&session.Options{Window: 16 << 20})
			p, socket, s, _ := plainRaw(t, a, hello(1, 1, generous()))
			t.Cleanup(func() { s.Close() })
			p.send(frame(frOpen, 1))
			st := accept(t, s)
			near, far := tcpPair(t)
			defer near.Close()
			defer far.Close()
			near.(*net.TCPConn).SetWriteBuffer(16 << 10)
			far.(*net.TCPConn).SetReadBuffer(16 << 10)
			type result struct {
				n   int64
				err error
			}
			done := make(chan result, 1)
			go func() {
				n, err := st.WriteTo(near)
				done <- result{n, err}
			}()
			var want []byte
			for i := range frames {
				want = append(want, ramp(size, i)...)
				socket.Write(p.message(frame(frData, 1, want[i*size:])))
			}
			socket.Write(p.message(frame(frEnd, 1)))
			settle(t, "all is taken in", func() bool { return s.Stats().Received == p.seq })
			if _, receive := s.Buffered(); receive < size {
				t.Errorf("%d bytes wait for the reader, want the most of %d", receive, len(want))
			}

			// The socket takes nothing more: what it had begun to be given is lost,
			// the rest is still there.
			near.SetWriteDeadline(time.Unix(1, 0))
			r := <-done
			if r.err == nil {
				t.Fatal("WriteTo to a full socket: no error after its deadline")
			}
			if got, err := tt.rest(st); err != nil || len(got) > 0 && !bytes.HasSuffix(want, got) {
				t.Errorf("%d bytes, %v; want the end of what was sent", len(got), err)
			}
			st.Close()
			settle(t, "nothing is held", func() bool {
				_, receive := s.Buffered()
				return receive == 0
			})
		})
	}
}

// TestLargeFrameAroundAnotherRecord has a record between two halves of a large
// frame, whose body comes by itself. It is not part of the frame.
func TestLargeFrameAroundAnotherRecord(t *testing.T) {
	t.Parallel()
	const size, extra = 255 << 10, 1000
	for name, head := range map[string][]byte{
		"unknown":              {0x7f, 0, extra >> 8, extra & 0xff},
		"ACK of later version": join([]byte{recAck, 0, (extra + 8) >> 8, (extra + 8) & 0xff}, u64(0)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := session.NewAcceptor(&session.Options{Window: 16 << 20})
			p, socket, s, _ := plainRaw(t, a, hello(1, 1, generous()))
			t.Cleanup(func() { s.Close() })
			p.send(frame(frOpen, 1))
			st := accept(t, s)
			near, far := tcpPair(t)
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				defer near.Close()
				if n, err := st.WriteTo(near); err != nil {
					t.Errorf("WriteTo: %d, %v", n, err)
				}
			})
			want := ramp(2*size, 0)
			sequence := join(frame(frData, 1, want[:size]), frame(frData, 1, want[size:]), frame(frEnd, 1))
			const half = size + size/2
			socket.Write(p.message(sequence[:half]))
			settle(t, "the first half is taken in", func() bool { return s.Stats().Received == p.seq })

			heard := s.Heard()
			socket.Write(append(wsframe.Append(nil, wsframe.Binary, len(head)+extra, true, 0), head...))
			settle(t, "the header of the record is read", func() bool { return s.Heard() != heard })
			socket.Write(bytes.Repeat([]byte("x"), extra))
			socket.Write(p.message(sequence[half:]))

			got, err := io.ReadAll(far)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %d bytes that differ or are not all, %v; want %d", len(got), err, len(want))
			}
		})
	}
}
