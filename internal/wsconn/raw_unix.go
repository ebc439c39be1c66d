//go:build unix

package wsconn

import (
	"net"

	"golang.org/x/sys/unix"

	"adit/internal/pipe"
	"adit/internal/readable"
	"adit/internal/trywrite"
)

// A rawConn does to a socket what net.Conn has no call for. Its write half and
// its read half may be used concurrently with each other, but each by one
// goroutine at a time.
type rawConn struct {
	waiter readable.Waiter
	writer trywrite.Writer
}

// newRawConn returns nil if c is not a socket.
func newRawConn(c net.Conn) *rawConn {
	rc, ok := readable.Of(c)
	if !ok {
		return nil
	}
	r := new(rawConn)
	r.waiter.Init(rc)
	r.writer.Init(c)
	return r
}

// waitRead blocks until a read would not.
func (r *rawConn) waitRead() error { return r.waiter.Wait() }

// park has f called when a read would not block, or after unpark.
func (r *rawConn) park(f func()) bool { return r.waiter.Park(f) }

// unpark has what was parked go on.
func (r *rawConn) unpark() { r.waiter.Unpark() }

// Read is the conn's.
func (r *rawConn) Read(b []byte) (int, error) { return r.waiter.Read(b) }

// canSplice reports whether splice moves bytes without copying them.
func (r *rawConn) canSplice() bool { return r.writer.CanSplice() }

// splice moves up to n bytes from the conn to p, without waiting.
func (r *rawConn) splice(p *pipe.Pipe, n int) (int, error) { return r.waiter.Splice(p, n) }

// tryWrite writes as much of b as the socket takes at once.
func (r *rawConn) tryWrite(b []byte) (int, error) { return r.writer.Write(b) }

// writeAll writes b and waits.
func (r *rawConn) writeAll(b []byte) (int, error) { return r.writer.WriteAll(b) }

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
