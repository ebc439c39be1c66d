//go:build unix && !linux

package hangup

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

func awaitLeft(_ context.Context, c net.Conn) bool {
	rc := raw(c)
	return rc != nil && await(rc, 0, func(events int16) bool { return events&unix.POLLERR != 0 })
}
