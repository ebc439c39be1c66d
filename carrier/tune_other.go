//go:build !linux

package carrier

import "net"

// tuneSocket does what Tune promises and package net has no call for, which is
// nothing on this system.
func tuneSocket(*net.TCPConn) {}
