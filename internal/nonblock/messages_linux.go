package nonblock

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Message is one of many that a system call moves: the kernel's mmsghdr.
type Message struct {
	unix.Msghdr
	N uint32 // bytes moved
}

// ReceiveMessages receives into messages, as many as there are, and returns how
// many that was (recvmmsg(2)).
func ReceiveMessages(fd int, m []Message) (int, error) {
	return againMessages(unix.SYS_RECVMMSG, fd, m)
}

// SendMessages sends messages and returns how many the system has taken. The
// error is that of the first; that of a later one is for the next call
// (sendmmsg(2)).
func SendMessages(fd int, m []Message) (int, error) {
	return againMessages(unix.SYS_SENDMMSG, fd, m)
}

func againMessages(call uintptr, fd int, m []Message) (int, error) {
	for {
		r, _, errno := syscall.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(m))), uintptr(len(m)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, fault(errno)
		}
	}
}
