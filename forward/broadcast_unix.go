//go:build unix

package forward

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// forbidBroadcast has the kernel refuse to send to all of a network, which only
// it knows from an address of one host. Package net allows it for each socket.
func forbidBroadcast(c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0) }); cerr != nil {
		return cerr
	}
	return err
}
