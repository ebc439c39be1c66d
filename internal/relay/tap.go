package relay

import (
	"io"
	"net"
	"sync/atomic"

	"adit/internal/readable"
)

// A tap takes note of bytes that pass. Both of its fields may be nil.
type tap struct {
	moved *atomic.Int64
	see   func([]byte)
}

func (t *tap) count(n int) {
	if t.moved != nil {
		t.moved.Add(int64(n))
	}
}

func (t *tap) show(p []byte) {
	if t.see != nil && len(p) > 0 {
		t.see(p)
	}
}

// A tapWriter takes note of what is written.
type tapWriter struct {
	w io.Writer
	tap
}

func (t *tapWriter) Write(p []byte) (int, error) {
	t.show(p)
	n, err := t.w.Write(p)
	t.count(n)
	return n, err
}

func newWriter(c net.Conn, moved *atomic.Int64, see func([]byte)) io.Writer {
	if moved == nil && see == nil {
		return c
	}
	return &tapWriter{c, tap{moved, see}}
}

// A tapReader takes note of what is read.
type tapReader struct {
	r io.Reader
	tap
}

func (t *tapReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.count(n)
	t.show(p[:n])
	return n, err
}

// A tapSocket is a tapReader on a socket, and tells a ReadFrom that can make
// use of it when there is something to read.
type tapSocket struct {
	tapReader
	wait readable.Waiter
}

func (t *tapSocket) WaitRead() error { return t.wait.Wait() }

func newReader(c net.Conn, moved *atomic.Int64, see func([]byte)) io.Reader {
	if moved == nil && see == nil {
		return c
	}
	t := tapReader{c, tap{moved, see}}
	rc, ok := readable.Of(c)
	if !ok {
		return &t
	}
	ts := &tapSocket{tapReader: t}
	ts.wait.Init(rc)
	ts.r = &ts.wait
	return ts
}
