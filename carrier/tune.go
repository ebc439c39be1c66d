package carrier

import (
	"net"
	"slices"
	"time"
)

const (
	// notSentLowAt is how much the kernel holds, in bytes, of what it has not
	// sent yet. What is beyond stays in the session, where small frames can
	// still overtake bulk.
	notSentLowAt = 128 << 10

	// nearRTT is the round-trip time below which the other end is taken to be
	// on the same network.
	nearRTT = 2 * time.Millisecond
)

// Tune sets up the socket below c for a carrier: no delay, keep-alive probes
// that notice a dead path after a minute, little unsent data in the kernel,
// and the congestion control that fits the path, each as far as the system
// can. It does nothing if it finds no TCP socket. Dial and Accept have called
// it for the conns that they return.
func Tune(c net.Conn) {
	tcp := tcpConn(c)
	if tcp == nil {
		return
	}
	tcp.SetNoDelay(true)
	tcp.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable:   true,
		Idle:     30 * time.Second,
		Interval: 10 * time.Second,
		Count:    3,
	})
	tuneSocket(tcp)
}

// tcpConn returns the socket below c, or nil.
func tcpConn(c net.Conn) *net.TCPConn {
	for {
		if tcp, ok := c.(*net.TCPConn); ok {
			return tcp
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = w.NetConn()
	}
}

// loopback reports whether the other end is on this machine.
func loopback(c *net.TCPConn) bool {
	addr, ok := c.RemoteAddr().(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}

// congestionControl returns what to use instead of current, which may be the
// same. On a long path bbr keeps its rate through losses; on a near one its
// pacing costs CPU and gains nothing.
func congestionControl(current string, available []string, near bool) string {
	switch {
	case !near && slices.Contains(available, "bbr"):
		return "bbr"
	case near && current == "bbr":
		for _, name := range []string{"cubic", "reno"} {
			if slices.Contains(available, name) {
				return name
			}
		}
	}
	return current
}
