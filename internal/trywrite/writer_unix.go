//go:build unix

package trywrite

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"adit/internal/nonblock"
	"adit/internal/pipe"
	"adit/internal/readable"
)

// A Writer writes to one socket without allocating. Only one goroutine at a
// time may use it, and nobody may be blocked in a write to the conn meanwhile.
// It must not be copied after Init.
type Writer struct {
	c     net.Conn
	rc    syscall.RawConn
	once  func(fd uintptr) bool // w.write, allocated once
	all   func(fd uintptr) bool // w.writeAll, allocated once
	buf   []byte                // for write
	pipe  *pipe.Pipe            // for write, instead of buf; nil if that is it
	most  int                   // bytes that write is to move
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
	w.c, w.rc, w.once, w.all = c, rc, w.write, w.writeAll
	return true
}

// Write writes as much of b as the socket takes at once, which is not an error
// if it is less than all. The error is like that of the conn's Write.
func (w *Writer) Write(b []byte) (int, error) { return w.do(b, nil, len(b), w.once) }

// WriteAll is like the conn's Write, and cheaper: see package nonblock.
func (w *Writer) WriteAll(b []byte) (int, error) { return w.do(b, nil, len(b), w.all) }

// CanSplice reports whether Splice and SpliceAll move bytes without copying
// them.
func (w *Writer) CanSplice() bool { return pipe.Works && tcp(w.c) }

// Splice is like Write for n bytes that are in p.
func (w *Writer) Splice(p *pipe.Pipe, n int) (int, error) { return w.do(nil, p, n, w.once) }

// SpliceAll is like WriteAll for n bytes that are in p.
func (w *Writer) SpliceAll(p *pipe.Pipe, n int) (int, error) { return w.do(nil, p, n, w.all) }

func tcp(c net.Conn) bool {
	switch c.(type) {
	case *net.TCPConn, interface{ Socket() *net.TCPConn }:
		return true
	}
	return false
}

func (w *Writer) do(b []byte, p *pipe.Pipe, most int, try func(fd uintptr) bool) (int, error) {
	w.buf, w.pipe, w.most = b, p, most
	err := w.rc.Write(try)
	n, errno := w.n, w.errno
	w.buf, w.pipe, w.n, w.errno = nil, nil, 0, nil
	if err == nil && errno != nil {
		err = &net.OpError{
			Op:     "write",
			Net:    w.c.LocalAddr().Network(),
			Source: w.c.LocalAddr(),
			Addr:   w.c.RemoteAddr(),
			Err:    os.NewSyscallError("write", errno),
		}
	}
	return n, err
}

// move moves what is left of most.
func (w *Writer) move(fd uintptr) (int, error) {
	if w.pipe != nil {
		return nonblock.Splice(w.pipe.R, int(fd), w.most-w.n)
	}
	return nonblock.Write(int(fd), w.buf[w.n:])
}

// write always reports true, so that RawConn.Write never waits.
func (w *Writer) write(fd uintptr) bool {
	n, err := w.move(fd)
	if err != unix.EAGAIN {
		w.n, w.errno = n, err
	}
	return true
}

// writeAll is for RawConn.Write: false waits.
func (w *Writer) writeAll(fd uintptr) bool {
	for w.n < w.most {
		n, err := w.move(fd)
		if err == unix.EAGAIN {
			return false
		} else if err != nil {
			w.errno = err
			return true
		}
		w.n += n
	}
	return true
}
