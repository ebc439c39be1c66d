//go:build !linux

package ingress

import (
	"net"
	"net/netip"
)

const oobSize = 1

// localAddrs does nothing here: answers leave from the address that the system
// picks, which on a machine with several need not be the one that was sent to.
// Who needs that listens on one address.
type localAddrs struct{}

func (localAddrs) ask(*net.UDPConn) {}

func (localAddrs) of([]byte) netip.Addr { return netip.Addr{} }

func (localAddrs) control(netip.Addr) []byte { return nil }
