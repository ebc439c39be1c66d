package hostile

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// NewKiller starts a device that cuts each connection to server, a host and
// port, when it is as old as age.
func NewKiller(t testing.TB, server string, age time.Duration) (addr string) {
	t.Helper()
	return listen(t, func(ctx context.Context, c net.Conn) {
		ctx, cancel := context.WithTimeout(ctx, age)
		defer cancel()
		s, err := new(net.Dialer).DialContext(ctx, "tcp", server)
		if err != nil {
			return
		}
		defer s.Close()
		join(ctx, c, s)
	})
}

// NewCutter starts a device that cuts each connection to server, a host and
// port, when it has carried size bytes, both ways together.
func NewCutter(t testing.TB, server string, size int64) (addr string) {
	t.Helper()
	return listen(t, func(ctx context.Context, c net.Conn) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := new(net.Dialer).DialContext(ctx, "tcp", server)
		if err != nil {
			return
		}
		defer s.Close()
		var left atomic.Int64
		left.Store(size)
		join(ctx, counted{c, &left, cancel}, counted{s, &left, cancel})
	})
}

// counted is a conn that is cut when nothing is left of what may be read.
type counted struct {
	net.Conn
	left *atomic.Int64
	cut  func()
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.left.Add(-int64(n)) <= 0 {
		c.cut()
	}
	return n, err
}
