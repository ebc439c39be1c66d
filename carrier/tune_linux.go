package carrier

import (
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// available is the list of congestion controls that the kernel has loaded.
var available = sync.OnceValue(func() []string {
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
})

// tuneSocket does what Tune promises and package net has no call for.
func tuneSocket(c *net.TCPConn) {
	rc, err := c.SyscallConn()
	if err != nil {
		return
	}
	local := loopback(c)
	rc.Control(func(fd uintptr) {
		s := int(fd)
		unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowAt)
		current, err := unix.GetsockoptString(s, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		if err != nil {
			return
		}
		near := local
		if !local {
			rtt, ok := roundTrip(s)
			if !ok {
				return
			}
			near = rtt < nearRTT
		}
		current = strings.TrimRight(current, "\x00")
		if name := congestionControl(current, available(), near); name != current {
			unix.SetsockoptString(s, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
		}
	})
}

// roundTrip returns the round-trip time that the kernel has measured.
func roundTrip(s int) (rtt time.Duration, ok bool) {
	info, err := unix.GetsockoptTCPInfo(s, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil || info.Rtt == 0 {
		return 0, false
	}
	// The smoothed time counts delayed acknowledgements in, the minimum does
	// not; old kernels have only the former.
	us := info.Rtt
	if info.Min_rtt != 0 {
		us = min(us, info.Min_rtt)
	}
	return time.Duration(us) * time.Microsecond, true
}
