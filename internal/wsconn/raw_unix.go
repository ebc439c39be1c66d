//go:build unix

package wsconn

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"adit/internal/readable"
)

// A rawConn does to a socket what net.Conn has no call for. Its write half and
// its read half may be used concurrently with each other, but each by one
// goroutine at a time.
type rawConn struct {
	c      net.Conn
	rc     syscall.RawConn
	waiter readable.Waiter

	write func(fd uintptr) bool // r.writeOnce, allocated once
	buf   []byte                // for writeOnce
	n     int                   // result of writeOnce
	errno error                 // result of writeOnce
}

// newRawConn returns nil if c is not a socket.
func newRawConn(c net.Conn) *rawConn {
	rc, ok := readable.Of(c)
	if !ok {
		return nil
	}
	r := &rawConn{c: c, rc: rc}
	r.waiter.Init(rc)
	r.write = r.writeOnce
	return r
}

// waitRead blocks until a read would not.
func (r *rawConn) waitRead() error { return r.waiter.Wait() }

// tryWrite writes as much of b as the socket takes at once.
func (r *rawConn) tryWrite(b []byte) (int, error) {
	r.buf = b
	err := r.rc.Write(r.write)
	n, errno := r.n, r.errno
	r.buf, r.n, r.errno = nil, 0, nil
	if err != nil {
		return 0, err
	}
	if errno != nil {
		return n, &net.OpError{
			Op:     "write",
			Net:    r.c.LocalAddr().Network(),
			Source: r.c.LocalAddr(),
			Addr:   r.c.RemoteAddr(),
			Err:    os.NewSyscallError("write", errno),
		}
	}
	return n, nil
}

// writeOnce always reports true, so that RawConn.Write never waits.
func (r *rawConn) writeOnce(fd uintptr) bool {
	for {
		n, err := unix.Write(int(fd), r.buf)
		switch err {
		case nil:
			r.n = n
			return true
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return true
		}
		r.errno = err
		return true
	}
}

// writable reports whether c is a socket that takes some bytes without
// blocking.
func writable(c net.Conn) bool {
	rc, ok := readable.Of(c)
	if !ok {
		return false
	}
	room := false
	rc.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(poll, 0)
		room = n == 1 && err == nil && poll[0].Revents == unix.POLLOUT
	})
	return room
}
