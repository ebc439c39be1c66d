//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package auth

import (
	"os"
	"syscall"
)

// tryLock locks a file as long as it is open. held means that somebody else
// has locked it.
func tryLock(path string) (unlock func(), held bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, err
	}
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
	case nil:
		return func() { f.Close() }, false, nil
	case syscall.EWOULDBLOCK, syscall.EINTR:
		f.Close()
		return nil, true, nil
	default:
		f.Close()
		return nil, false, err
	}
}
