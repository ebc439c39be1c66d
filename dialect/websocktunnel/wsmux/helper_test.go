package wsmux_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/dialect/websocktunnel/wsmux"
	"adit/internal/memnet"
	"adit/internal/testtcp"
	"adit/internal/wsframe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// sockets returns both ends of a TCP conn.
func sockets(t testing.TB) (a, b net.Conn) { return testtcp.Pair(t) }

// A frame is what a raw peer sees of one message, or control frame.
type frame struct {
	op      byte // of WebSocket
	typ     wsmux.Type
	stream  uint32
	payload string
}

func (f frame) String() string {
	if f.op != wsframe.Binary {
		return fmt.Sprintf("op %d %q", f.op, f.payload)
	}
	if f.typ == wsmux.ACK && len(f.payload) == 4 {
		return fmt.Sprintf("ACK %d %d", f.stream, f.credit())
	}
	return fmt.Sprintf("%v %d %.40q", f.typ, f.stream, f.payload)
}

func (f frame) credit() int { return int(binary.LittleEndian.Uint32([]byte(f.payload))) }

// A raw is the other side of a session, frame by frame.
type raw struct {
	t      testing.TB
	conn   net.Conn
	masked bool // it is the agent
}

// start starts a session of the given role and returns its other side.
func start(t testing.TB, role wsmux.Role, opts wsmux.Options) (*wsmux.Session, *raw) {
	t.Helper()
	a, b := sockets(t)
	s := wsmux.New(a, role, opts)
	t.Cleanup(func() { s.Close() })
	s.Start(nil)
	b.SetDeadline(time.Now().Add(patience))
	return s, &raw{t, b, role == wsmux.Server}
}

// startInMemory is start for a bubble of synctest.
func startInMemory(t testing.TB, role wsmux.Role, opts wsmux.Options) (*wsmux.Session, *raw) {
	a, b := memnet.Pipe()
	s := wsmux.New(a, role, opts)
	s.Start(nil)
	return s, &raw{t, b, role == wsmux.Server}
}

// message sends payload as one message with op.
func (r *raw) message(op byte, payload []byte) {
	r.t.Helper()
	b := wsframe.Append(nil, op, len(payload), r.masked, 0x11223344)
	at := len(b)
	b = append(b, payload...)
	if r.masked {
		wsframe.Mask(b[at:], b[at:], 0x11223344)
	}
	if _, err := r.conn.Write(b); err != nil {
		r.t.Errorf("send: %v", err)
	}
}

func (r *raw) send(typ wsmux.Type, stream uint32, payload string) {
	r.t.Helper()
	r.message(wsframe.Binary, wsmux.AppendFrame(nil, typ, stream, []byte(payload)))
}

func (r *raw) ack(stream uint32, n int) {
	r.t.Helper()
	r.send(wsmux.ACK, stream, string(binary.LittleEndian.AppendUint32(nil, uint32(n))))
}

// readFrame reads one WebSocket frame.
func readFrame(c io.Reader, masked bool) (frame, error) {
	var head [wsframe.MaxHeader]byte
	var h wsframe.Header
	for n := 0; ; n++ {
		if _, err := io.ReadFull(c, head[n:n+1]); err != nil {
			return frame{}, err
		}
		var used int
		var err error
		if h, used, err = wsframe.Parse(head[:n+1]); err != nil {
			return frame{}, err
		} else if used > 0 {
			break
		}
	}
	if h.Masked != masked {
		return frame{}, fmt.Errorf("frame with mask %v, want %v", h.Masked, masked)
	}
	payload := make([]byte, h.Size)
	if _, err := io.ReadFull(c, payload); err != nil {
		return frame{}, err
	}
	wsframe.Mask(payload, payload, h.Key)
	f := frame{op: h.Op, payload: string(payload)}
	if h.Op == wsframe.Binary {
		if len(payload) < 5 || !h.Fin {
			return f, errors.New("a message that is short or fragmented")
		}
		f.typ, f.stream, f.payload = wsmux.Type(payload[0]), binary.LittleEndian.Uint32(payload[1:]), f.payload[5:]
	}
	return f, nil
}

// next returns the next frame of the protocol, and passes over control frames.
func (r *raw) next() frame {
	r.t.Helper()
	for {
		f, err := readFrame(r.conn, !r.masked)
		if err != nil {
			r.t.Fatalf("receive: %v", err)
		}
		if f.op == wsframe.Binary {
			return f
		}
	}
}

// expect wants one frame.
func (r *raw) expect(typ wsmux.Type, stream uint32, payload string) {
	r.t.Helper()
	if got, want := r.next(), (frame{wsframe.Binary, typ, stream, payload}); got != want {
		r.t.Fatalf("got %v, want %v", got, want)
	}
}

// closed reads up to the end, and closes this side too. It returns the close
// frame that came before, if any.
func (r *raw) closed() (code int, reason string) {
	r.t.Helper()
	defer r.conn.Close()
	for {
		f, err := readFrame(r.conn, !r.masked)
		switch {
		case err == nil && f.op == wsframe.Close:
			code, reason = int(binary.BigEndian.Uint16([]byte(f.payload))), f.payload[2:]
		case err == io.EOF:
			return code, reason
		case err != nil:
			r.t.Fatalf("want the end: %v", err)
		}
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

func read(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Fatalf("read %.60q, %v; want %.60q", b, err, want)
	}
}
