package nonblock

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read reads what fd has, up to len(b) bytes; 0 is its end.
func Read(fd int, b []byte) (int, error) {
	return again(unix.SYS_READ, fd, unsafe.Pointer(unsafe.SliceData(b)), len(b))
}

// Write writes as much of b as fd takes.
func Write(fd int, b []byte) (int, error) {
	return again(unix.SYS_WRITE, fd, unsafe.Pointer(unsafe.SliceData(b)), len(b))
}

func again(call uintptr, fd int, p unsafe.Pointer, n int) (int, error) {
	for {
		r, _, errno := syscall.RawSyscall(call, uintptr(fd), uintptr(p), uintptr(n))
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, fault(errno)
		}
	}
}

// fault spares the usual errors an allocation.
func fault(errno syscall.Errno) error {
	if errno == unix.EAGAIN {
		return errAgain
	}
	return errno
}

var errAgain error = unix.EAGAIN

// SendMore sends as much of b as the socket takes, which more will follow.
func SendMore(fd int, b []byte) (int, error) {
	for {
		r, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			unix.MSG_MORE|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, fault(errno)
		}
	}
}

// Splice moves up to n bytes between a socket and a pipe; 0 is the end.
func Splice(from, to, n int) (int, error) {
	for {
		r, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, fault(errno)
		}
	}
}

// Readable reports whether a read of fd would return at once, be it with an
// error.
func Readable(fd int) bool {
	p := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	var none unix.Timespec
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&none)), 0, 0, 0)
		if errno != unix.EINTR {
			return n != 0 || errno != 0
		}
	}
}
