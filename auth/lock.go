package auth

import (
	"fmt"
	"time"
)

const (
	lockPause    = 10 * time.Millisecond
	lockPatience = 10 * time.Second // far longer than anybody holds one
)

// lock waits until no other process has the lock file of that name.
func lock(path string) (unlock func(), err error) {
	for began := time.Now(); ; time.Sleep(lockPause) {
		unlock, held, err := tryLock(path)
		switch {
		case err != nil:
			return nil, cause(err)
		case !held:
			return unlock, nil
		case time.Since(began) > lockPatience:
			return nil, fmt.Errorf("another process has held %s for %v", path, lockPatience)
		}
	}
}
