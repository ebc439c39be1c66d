package forward

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"time"

	"adit/tunnel"
)

// A greeter serves connections that say themselves where they go, with SOCKS5
// or with HTTP CONNECT.
type greeter struct {
	log *slog.Logger

	// dial connects to what c has named, and logs why not.
	dial func(ctx context.Context, c net.Conn, t tunnel.Target) (net.Conn, error)

	// relay carries bytes between the two until they end, and closes them.
	relay func(c, stream net.Conn, t tunnel.Target)

	// associate serves UDP ASSOCIATE, and closes c; nil refuses it.
	associate func(ctx context.Context, c net.Conn)
}

// serve serves one connection, and closes it. ctx bounds the dial, and all of
// UDP ASSOCIATE.
func (g *greeter) serve(ctx context.Context, c net.Conn) {
	c.SetDeadline(time.Now().Add(greetingTimeout))
	br := bufio.NewReaderSize(c, maxConnectHead)
	first, err := br.Peek(1)
	switch {
	case err != nil:
		c.Close()
	case first[0] == socksVersion:
		g.socks5(ctx, c, br)
	default:
		g.connect(ctx, c, br)
	}
}
