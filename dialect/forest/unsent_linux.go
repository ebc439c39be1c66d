package forest

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxUnsent is how much the system takes of what is not on its way yet, in
// bytes: what answers a ping waits behind no more.
const maxUnsent = 128 << 10

func limitUnsent(c net.Conn) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return
	}
	rc.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent) // an error means an old system
	})
}
