// Package lastcall closes a listener without losing anybody who has connected:
// a plain close resets the conns that wait in its queue, whose owners have sent
// their request already.
//
//	lastcall.Begin(ln)
//	for {
//		conn, err := ln.Accept()
//		if errors.Is(err, os.ErrDeadlineExceeded) {
//			return ln.Close() // nobody is left
//		}
//		...
//	}
package lastcall

import (
	"net"
	"time"
)

// patience is how long handshakes under way may take to end. It is what a
// round trip takes within a continent.
const patience = 100 * time.Millisecond

// Begin lets Accept go on for those who are connected, or about to be, and fail
// with os.ErrDeadlineExceeded after that. On Linux nobody can begin to connect
// meanwhile: their systems try again after a second, and find nobody, or
// another process that listens. That takes a listener of plain TCP, not one of
// multipath TCP (net.ListenConfig.SetMultipathTCP). A listener without
// SetDeadline is closed.
func Begin(l net.Listener) {
	d, ok := l.(interface{ SetDeadline(time.Time) error })
	if !ok {
		l.Close()
		return
	}
	deafen(l)
	if d.SetDeadline(time.Now().Add(patience)) != nil {
		l.Close()
	}
}
