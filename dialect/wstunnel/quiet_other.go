//go:build !unix

package wstunnel

import "net"

// canQuiet says that quiet cannot tell.
const canQuiet = false

func quiet(net.Conn) bool { return false }
