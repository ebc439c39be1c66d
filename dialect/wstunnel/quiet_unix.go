//go:build unix

package wstunnel

import (
	"net"
	"syscall"
)

// canQuiet says that quiet can tell.
const canQuiet = true

// quiet reports whether c is open and has nothing to read, as a connection has
// to be that waits for its next request. It does not block.
func quiet(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	idle := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, rerr := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		idle = rerr == syscall.EAGAIN || rerr == syscall.EWOULDBLOCK
		return true
	})
	return err == nil && idle
}
