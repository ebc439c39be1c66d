package hangup

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// askAgain is how often a far side is looked for that has ended its direction.
const askAgain = 250 * time.Millisecond

func awaitLeft(ctx context.Context, c net.Conn) bool {
	rc := raw(c)
	if rc == nil || !await(rc, unix.POLLRDHUP, func(events int16) bool { return events != 0 }) {
		return false
	}
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for {
		if hasLeft(c, rc) {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// hasLeft reports whether nobody is at the far side of c, which has ended its
// direction.
func hasLeft(c net.Conn, rc syscall.RawConn) bool {
	var events int16
	said := false
	rc.Control(func(fd uintptr) {
		events, _ = poll(fd, 0)
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		said = err == nil && n > 0
	})
	switch {
	case events&unix.POLLERR != 0: // it was reset
		return true
	case said:
		return false
	}
	return events&unix.POLLHUP != 0 || abandoned(c)
}
