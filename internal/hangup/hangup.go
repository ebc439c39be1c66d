// Package hangup tells that the far side of a conn has gone for good, and has
// not ended its own direction alone, without reading from the conn.
//
//	if hangup.Left(ctx, caller) {
//		// nobody waits for an answer any more, nor has asked anything
//	}
package hangup

import (
	"context"
	"net"
	"time"
)

// Left blocks until whoever is at the far side of c has left for good without a
// word, and reports true; it reports false when ctx ends, and at once where that
// cannot be told. Meanwhile nobody reads from c, whose read deadline is cleared
// at the end.
//
// A reset is such an end, and so is a unix socket that is closed. The end of a TCP
// conn's direction is not: the rest may be waited for. But if the far side is on
// this machine, it can be known whether any process still has it (on Linux). Bytes
// that have come and not been read were meant to arrive, so that who closes c
// after them has not left in this sense.
func Left(ctx context.Context, c net.Conn) bool {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		c.SetReadDeadline(time.Unix(1, 0))
	})
	left := awaitLeft(ctx, c)
	if !stop() {
		<-woken
	}
	c.SetReadDeadline(time.Time{})
	return left
}
