//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package screen

import "golang.org/x/sys/unix"

const (
	ioctlGet      = unix.TIOCGETA
	ioctlSet      = unix.TIOCSETA
	ioctlSetFlush = unix.TIOCSETAF
)
