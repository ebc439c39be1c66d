//go:build unix

package hangup

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Await blocks until the far side of c, which has ended its direction, is gone
// for good, and reports whether that is so. It is not if c is no socket, or if c
// is closed or its read deadline passes first.
//
// A far side that has closed its conn, and not just half of it, answers
// whatever it is sent with a reset. Keep-alives bring that about if nothing
// else does.
func Await(c net.Conn) bool {
	rc := raw(c)
	return rc != nil && await(rc, 0, func(events int16) bool { return events&(unix.POLLHUP|unix.POLLERR) != 0 })
}

// raw returns the socket of c, and nil if it is none.
func raw(c net.Conn) syscall.RawConn {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return rc
}

// await blocks until is says yes to what poll tells of a socket, with the events
// that it is asked for beside POLLHUP and POLLERR, and reports whether it did.
func await(rc syscall.RawConn, ask int16, is func(events int16) bool) bool {
	met := false
	// The poller wakes readers at a hang-up too, and at other times.
	rc.Read(func(fd uintptr) bool {
		events, ok := poll(fd, ask)
		met = ok && is(events)
		return met
	})
	return met
}

func poll(fd uintptr, ask int16) (events int16, ok bool) {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: ask}}
	_, err := unix.Poll(p[:], 0)
	return p[0].Revents, err == nil
}
