package readable

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A lot is where sockets are parked: one goroutine waits for all of them with
// an epoll of its own, beside the runtime's. Both exist while somebody is
// parked.
type lot struct {
	mu     sync.Mutex // guards the fields below
	ep     *os.File   // nil while nobody is parked
	fd     int        // of ep
	parked map[uint64]func()
	last   uint64 // ticket
}

var parking lot

// Park calls f, in a goroutine of its own and once, when a read of the socket
// would not block or Unpark is called, and reports true; meanwhile nobody else
// waits with w. It reports false, and f is not called, where that is not
// supported: whoever asked has to Wait. Whoever closes the socket calls Unpark
// then.
//
// A parked socket costs a few dozen bytes, where a goroutine that waits takes
// more than 2 KiB, but more time: it is for those who expect nothing soon.
func (w *Waiter) Park(f func()) bool {
	parking.mu.Lock()
	defer parking.mu.Unlock()
	if parking.ep == nil && parking.openLocked() != nil {
		return false
	}
	parking.last++
	parking.parked[parking.last] = f
	if parking.watchLocked(w.rc, parking.last) != nil {
		parking.takeLocked(parking.last)
		return false
	}
	w.ticket = parking.last
	return true
}

// Unpark has what was parked with w go on, if anything was.
func (w *Waiter) Unpark() {
	parking.mu.Lock()
	defer parking.mu.Unlock()
	if f := parking.takeLocked(w.ticket); f != nil {
		go f()
	}
}

// takeLocked returns what is parked under a ticket, and nil if nothing is. After
// the last one the lot closes.
func (l *lot) takeLocked(ticket uint64) func() {
	f := l.parked[ticket]
	if f == nil {
		return nil
	}
	delete(l.parked, ticket)
	if len(l.parked) == 0 {
		l.ep.Close() // which ends attend
		l.ep, l.parked = nil, nil
	}
	return f
}

func (l *lot) openLocked() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that os.File waits with the runtime's poller
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	ep := os.NewFile(uintptr(fd), "epoll")
	rc, err := ep.SyscallConn()
	if err != nil {
		ep.Close()
		return err
	}
	l.ep, l.fd, l.parked = ep, fd, make(map[uint64]func())
	go l.attend(rc)
	return nil
}

// watchLocked asks for one event with the ticket, at once if the socket is
// readable already. The kernel forgets a socket when it is closed, and has it
// at rest from its event to the next call.
func (l *lot) watchLocked(rc syscall.RawConn, ticket uint64) error {
	event := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT,
		Fd:     int32(uint32(ticket)), // both halves come back as they are
		Pad:    int32(uint32(ticket >> 32)),
	}
	var cause error
	err := rc.Control(func(fd uintptr) {
		cause = unix.EpollCtl(l.fd, unix.EPOLL_CTL_ADD, int(fd), &event)
		if cause == unix.EEXIST {
			cause = unix.EpollCtl(l.fd, unix.EPOLL_CTL_MOD, int(fd), &event)
		}
	})
	if err != nil {
		return err
	}
	return cause
}

// attend waits for the parked sockets until nobody is parked any more.
func (l *lot) attend(ep syscall.RawConn) {
	events := make([]unix.EpollEvent, 64)
	for {
		var n int
		var cause error
		err := ep.Read(func(fd uintptr) bool {
			for {
				n, cause = unix.EpollWait(int(fd), events, 0)
				if cause != unix.EINTR {
					return n != 0
				}
			}
		})
		if err != nil || cause != nil {
			return // it was closed
		}
		l.mu.Lock()
		for _, e := range events[:n] {
			if f := l.takeLocked(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32); f != nil {
				go f()
			}
		}
		l.mu.Unlock()
	}
}
