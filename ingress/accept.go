package ingress

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"
)

// acceptAll gives the conns that come through l to admit, one after the other,
// until Accept fails for good. Then it returns nil if draining is set, and has
// closed l; else ctx's error if that has ended, or the one of Accept.
func acceptAll(ctx context.Context, l net.Listener, draining *atomic.Bool, log *slog.Logger, admit func(net.Conn)) error {
	var delay time.Duration
	for {
		conn, err := l.Accept()
		if err == nil {
			delay = 0
			admit(conn)
			continue
		}
		switch {
		case draining.Load():
			l.Close()
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !isTemporary(err):
			return err
		}
		// Out of descriptors, most likely: the same back-off as net/http's.
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		log.Warn("accept failed", "err", err, "dur", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}

func isTemporary(err error) bool {
	var ne interface{ Temporary() bool }
	return errors.As(err, &ne) && ne.Temporary()
}
