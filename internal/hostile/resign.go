package hostile

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"
)

// NewResigner starts a device that puts a certificate of its own in place of
// the server's at target, as those do that look into TLS. config is what it
// shows; the server's certificate it does not look at.
func NewResigner(t testing.TB, target string, config *tls.Config) (addr string) {
	t.Helper()
	return listen(t, func(ctx context.Context, c net.Conn) {
		c.SetDeadline(time.Now().Add(patience))
		shown := tls.Server(c, config)
		if shown.HandshakeContext(ctx) != nil {
			return
		}
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
		server, err := d.DialContext(ctx, "tcp", target)
		if err != nil {
			return
		}
		defer server.Close()
		c.SetDeadline(time.Time{})
		join(ctx, shown, server)
	})
}
