package hostile

import (
	"context"
	"net"
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
