//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package auth

import (
	"errors"
	"io/fs"
	"os"
)

// tryLock locks by making a file. One that a crash left behind has to be
// removed by hand, as the error of lock says.
func tryLock(path string) (unlock func(), held bool, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil, true, nil
	case err != nil:
		return nil, false, err
	}
	f.Close()
	return func() { os.Remove(path) }, false, nil
}
