package pacing

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// plain is a congestion control that does not pace, and that every system has
// and lets everybody use.
const plain = "reno"

func unpace(c syscall.RawConn) {
	c.Control(func(fd uintptr) {
		name, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		if err == nil && strings.HasPrefix(name, "bbr") {
			unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, plain)
		}
	})
}
