//go:build unix

package trywrite

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"adit/internal/nonblock"
	"adit/internal/readable"
)

// A Writer writes to one socket without waiting and without allocating. Only
// one goroutine at a time may use it, and nobody may be blocked in a write to
// the conn meanwhile. It must not be copied after Init.
type Writer struct {
	c     net.Conn
	rc    syscall.RawConn
	once  func(fd uintptr) bool // w.write, allocated once
	buf   []byte                // for write
	n     int                   // its result
	errno error                 // its result
}

// Init makes w write to c. It reports false if c is not a socket; w must not be
// used then.
func (w *Writer) Init(c net.Conn) bool {
	rc, ok := readable.Of(c)
	if !ok {
		return false
	}
	w.c, w.rc, w.once = c, rc, w.write
	return true
}

// Write writes as much of b as the socket takes at once, which is not an error
// if it is less than all. The error is like that of the conn's Write.
func (w *Writer) Write(b []byte) (int, error) {
	w.buf = b
	err := w.rc.Write(w.once)
	n, errno := w.n, w.errno
	w.buf, w.n, w.errno = nil, 0, nil
	if err != nil {
		return 0, err
	}
	if errno != nil {
		return n, &net.OpError{
			Op:     "write",
			Net:    w.c.LocalAddr().Network(),
			Source: w.c.LocalAddr(),
			Addr:   w.c.RemoteAddr(),
			Err:    os.NewSyscallError("write", errno),
		}
	}
	return n, nil
}

// write always reports true, so that RawConn.Write never waits.
func (w *Writer) write(fd uintptr) bool {
	n, err := nonblock.Write(int(fd), w.buf)
	if err != unix.EAGAIN {
		w.n, w.errno = n, err
	}
	return true
}
