//go:build !unix

package forward

import "syscall"

// forbidBroadcast is for systems of package unix.
func forbidBroadcast(syscall.RawConn) error { return nil }
