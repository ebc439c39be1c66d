//go:build unix

package folder

import "syscall"

// openNonblock keeps the opening of a pipe that has no writer from waiting for
// one.
const openNonblock = syscall.O_NONBLOCK
