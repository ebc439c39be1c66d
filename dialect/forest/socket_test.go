package forest

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// A countConn counts calls of Write.
type countConn struct {
	net.Conn
	out    bytes.Buffer
	writes int
}

func (c *countConn) Write(p []byte) (int, error) { c.writes++; return c.out.Write(p) }

// TestMuxConnFrames wants a header and its body in one call, and resets between
// frames.
func TestMuxConnFrames(t *testing.T) {
	t.Parallel()
	c := new(countConn)
	m := newMuxConn(c, nil)
	header := []byte{0, typeData, 0, 0, 0, 0, 0, 3, 0, 0, 0, 5}
	m.Write(header)
	m.reset(7)
	m.Write([]byte("hello"))
	want := string([]byte{0, typeWindow, 0, flagRST, 0, 0, 0, 7, 0, 0, 0, 0}) + string(header) + "hello"
	if c.out.String() != want || c.writes != 2 {
		t.Errorf("got %q in %d calls, want %q in 2", c.out.String(), c.writes, want)
	}
}

// TestSocketCork wants what is written meanwhile in one call, in its order.
func TestSocketCork(t *testing.T) {
	t.Parallel()
	c := new(countConn)
	s := &socket{Conn: c}
	s.cork()
	for range 4 {
		io.WriteString(s, "abcd")
	}
	if err := s.uncork(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(s, "e")
	if got, want := c.out.String(), "abcdabcdabcdabcde"; got != want || c.writes != 2 {
		t.Errorf("got %q in %d calls, want %q in 2", got, c.writes, want)
	}
}

// TestFrameSize wants large frames where they pass quickly, and small ones
// again where they do not.
func TestFrameSize(t *testing.T) {
	t.Parallel()
	m := newMuxConn(new(countConn), nil)
	for _, tt := range []struct {
		took time.Duration
		want int64
	}{
		{quickFrame, minFrame}, {time.Millisecond, 2 * minFrame}, {time.Millisecond, maxFrame}, {time.Millisecond, maxFrame},
		{slowFrame, maxFrame}, {slowFrame + 1, minFrame},
	} {
		if m.adapt(tt.took); m.frame.Load() != tt.want {
			t.Errorf("after %v: got %d, want %d", tt.took, m.frame.Load(), tt.want)
		}
	}
}

// TestMuxConnBody wants a body of several records whole behind its header, and
// its length from Write.
func TestMuxConnBody(t *testing.T) {
	t.Parallel()
	body := bytes.Repeat([]byte("0123456789abcdef"), 3000)
	c := new(countConn)
	m := newMuxConn(c, nil)
	header := []byte{0, typeData, 0, 0, 0, 0, 0, 3, 0, 0, byte(len(body) >> 8), byte(len(body))}
	m.Write(header)
	if n, err := m.Write(body); n != len(body) || err != nil {
		t.Errorf("got %d, %v, want %d", n, err, len(body))
	}
	if got, want := c.out.Bytes(), append(header, body...); !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, want the %d of header and body", len(got), len(want))
	}
}
