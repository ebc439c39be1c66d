//go:build !linux

package forest

import "net"

func limitUnsent(net.Conn) {}
