package tunnel

import "net"

// Abort ends c so that the far side sees an error and no clean end: a Resetter
// is reset with code and reason, a *net.TCPConn or what wraps one with an RST
// (which drops what was not delivered yet), and any other conn is closed.
func Abort(c net.Conn, code ResetCode, reason string) error {
	switch c := c.(type) {
	case Resetter:
		return c.Reset(code, reason)
	case interface{ SetLinger(sec int) error }:
		c.SetLinger(0) // fails on a closed conn, as Close will
	}
	return c.Close()
}
