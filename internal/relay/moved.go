package relay

import (
	"io"
	"net"
	"sync/atomic"

	"adit/internal/readable"
)

// A movedWriter counts what is written.
type movedWriter struct {
	w     io.Writer
	moved *atomic.Int64
}

func (m *movedWriter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.moved.Add(int64(n))
	return n, err
}

// A movedReader counts what is read.
type movedReader struct {
	r     io.Reader
	moved *atomic.Int64
}

func (m *movedReader) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.moved.Add(int64(n))
	return n, err
}

// A movedSocket is a movedReader on a socket, and tells a ReadFrom that can
// make use of it when there is something to read.
type movedSocket struct {
	movedReader
	wait readable.Waiter
}

func (m *movedSocket) WaitRead() error { return m.wait.Wait() }

func newMovedReader(c net.Conn, moved *atomic.Int64) io.Reader {
	m := movedReader{c, moved}
	rc, ok := readable.Of(c)
	if !ok {
		return &m
	}
	ms := &movedSocket{movedReader: m}
	ms.wait.Init(rc)
	return ms
}
