// Package pacing spares connections of this machine with itself what only a
// network needs. Where the system's congestion control paces what it sends, as
// BBR does, the kernel sets a timer for nearly each segment: over loopback that
// costs more than to move the bytes, and there is no path whose rate is to be
// found.
//
//	d := net.Dialer{Control: pacing.Control}
//	lc := net.ListenConfig{Control: pacing.Control}
package pacing

import (
	"net/netip"
	"syscall"
)

// Control is for the Control of a net.Dialer or a net.ListenConfig. It does
// something to a TCP socket whose address is on loopback alone, and only if the
// system paces by default. A listener's connections are as it is. It never
// fails: without it all works as well.
func Control(network, address string, c syscall.RawConn) error {
	if len(network) < 3 || network[:3] != "tcp" {
		return nil
	}
	if a, err := netip.ParseAddrPort(address); err == nil && a.Addr().Unmap().IsLoopback() {
		unpace(c)
	}
	return nil
}
