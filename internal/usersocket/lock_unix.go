//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package usersocket

import (
	"os"
	"syscall"
	"time"
)

const (
	lockPause    = 5 * time.Millisecond
	lockPatience = time.Second // far longer than Listen takes
)

// lockFolder keeps others who Listen out of a folder, so that none of them finds
// a socket on which its process does not listen yet, and takes it for one that
// was left behind. Anybody who can read the folder can hold the lock: it is not
// waited for for long, nor needed where there is none.
func lockFolder(dir string) (unlock func()) {
	f, err := os.OpenFile(dir, syscall.O_NONBLOCK, 0) // a FIFO is not waited for
	if err != nil {
		return func() {}
	}
	for began := time.Now(); time.Since(began) < lockPatience; time.Sleep(lockPause) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			break
		}
	}
	return func() { f.Close() } // which unlocks
}
