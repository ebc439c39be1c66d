// Package testsignal makes tests of signals independent of who has started them.
package testsignal

import (
	"os"
	"os/signal"
	"syscall"
)

// Restore has the processes that the tests start begin with the signals' own
// dispositions. Those that nohup, or a shell that starts something in the
// background, has the tests ignore would be ignored by them too. A TestMain calls
// it once.
func Restore() {
	for _, s := range []os.Signal{syscall.SIGHUP, os.Interrupt, syscall.SIGTERM} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s) // what is handled is inherited as the default
		}
	}
}
