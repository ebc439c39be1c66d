package tcpws

import (
	"time"

	"golang.org/x/sys/unix"
)

// isClosed reports whether s is a socket that has been reset, or has ended both
// ways.
func (s *socket) isClosed() (is bool) {
	const stateClose = 7 // TCP_CLOSE
	if s.raw != nil {
		s.raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			is = err == nil && info.State == stateClose
		})
	}
	return is
}

// flush waits until the far side of a socket has what was written, or takes none
// of it for graceTime. The system tells nobody when that is, so it looks.
func (s *socket) flush() {
	if s.raw == nil {
		return
	}
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	last, left := 0, 0
	for moved := time.Now(); time.Since(moved) < graceTime; <-look.C {
		err := s.raw.Control(func(fd uintptr) {
			var err error
			if left, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ); err != nil {
				left = 0
			}
		})
		if err != nil || left == 0 || s.isClosed() {
			return
		}
		if left != last {
			last, moved = left, time.Now()
		}
	}
}
