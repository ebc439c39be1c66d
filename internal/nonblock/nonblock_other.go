//go:build unix && !linux

package nonblock

import "golang.org/x/sys/unix"

// Read reads what fd has, up to len(b) bytes; 0 is its end.
func Read(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// Write writes as much of b as fd takes.
func Write(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Write(fd, b)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// Splice is not supported.
func Splice(from, to, n int) (int, error) { return 0, unix.ENOSYS }

// Readable reports whether a read of fd would return at once, be it with an
// error.
func Readable(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 0)
		if err != unix.EINTR {
			return n != 0 || err != nil
		}
	}
}
