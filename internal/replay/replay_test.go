package replay_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"adit/internal/replay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fakeConn reads from a string.
type fakeConn struct {
	net.Conn
	io.Reader
	closed bool
}

func (c *fakeConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }
func (c *fakeConn) Close() error               { c.closed = true; return nil }

// A halfConn can end its writing side.
type halfConn struct {
	fakeConn
	ended bool
}

func (c *halfConn) CloseWrite() error { c.ended = true; return nil }

func TestRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, head, rest string }{
		{"both", "first", "second"},
		{"nothing read before", "", "second"},
		{"nothing after", "first", ""},
		{"neither", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := replay.New(&fakeConn{Reader: strings.NewReader(tt.rest)}, []byte(tt.head))
			if err := iotest.TestReader(c, []byte(tt.head+tt.rest)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBare(t *testing.T) {
	t.Parallel()
	below := &fakeConn{Reader: strings.NewReader("rest")}
	c := replay.New(below, []byte("head"))
	if got := replay.Bare(c); got != c {
		t.Errorf("Bare with bytes to read again: got %T, want the conn as it was", got)
	}
	buf := make([]byte, 3)
	c.Read(buf)
	if got := string(c.Head()); got != "d" {
		t.Errorf("Head after 3 of 4 bytes: got %q, want d", got)
	}
	if n, err := c.Read(buf); n != 1 || err != nil {
		t.Errorf("Read of the last byte: got %d bytes and %v, want that alone", n, err)
	}
	if got := replay.Bare(c); got != below {
		t.Errorf("Bare with nothing to read again: got %T, want the conn below", got)
	}
	if got := replay.Bare(below); got != below {
		t.Errorf("Bare of another conn: got %T, want that", got)
	}
	if got := c.NetConn(); got != below {
		t.Errorf("NetConn: got %T, want the conn below", got)
	}
}

func TestBuffered(t *testing.T) {
	t.Parallel()
	below := &fakeConn{Reader: strings.NewReader("first line\nsecond")}
	br := bufio.NewReaderSize(below, 16)
	if got := replay.Buffered(below, br); got != below {
		t.Errorf("with nothing buffered: got %T, want the conn itself", got)
	}
	br.ReadString('\n')
	c := replay.Buffered(below, br)
	br.ReadString('x') // uses its buffer again
	below.Reader = strings.NewReader("d")
	if got, err := io.ReadAll(c); string(got) != "second" && err == nil {
		t.Errorf("read %q, %v, want second", got, err)
	}
}

func TestCloseWrite(t *testing.T) {
	t.Parallel()
	half, whole := &halfConn{}, &fakeConn{}
	if err := replay.New(half, nil).CloseWrite(); err != nil || !half.ended || half.closed {
		t.Errorf("of a conn that can: got %v, ended %v, closed %v; want it ended alone", err, half.ended, half.closed)
	}
	if err := replay.New(whole, nil).CloseWrite(); err != nil || !whole.closed {
		t.Errorf("of a conn that cannot: got %v, closed %v; want it closed", err, whole.closed)
	}
}
