//go:build unix

package relay

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// awaitHangup blocks until the far side of c, which has ended its direction,
// is gone for good, and reports whether that is so. It is not if c is no
// socket, or if c is closed or its read deadline passes first.
//
// A far side that has closed its conn, and not just half of it, answers
// whatever it is sent with a reset. Keep-alives bring that about if nothing
// else does.
func awaitHangup(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	// The poller wakes readers at a hang-up too, and at other times.
	rc.Read(func(fd uintptr) bool {
		p := [1]unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(p[:], 0)
		gone = err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		return gone
	})
	return gone
}
