package forward

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
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
	case first[0] == socks4:
		g.log.Warn("SOCKS request refused", "err", "version 4: 5 is allowed")
		c.Write([]byte{0, 91, 0, 0, 0, 0, 0, 0})
		c.Close()
	case !isLetter(first[0]):
		g.log.Warn("connection refused", "err", errNeither)
		c.Close()
	default:
		g.connect(ctx, c, br)
	}
}

func isLetter(b byte) bool { return 'a' <= b|0x20 && b|0x20 <= 'z' }

// errLeft is why a target is not connected that nobody waits for any more.
var errLeft = errors.New("whoever asked has left")

// dialAsked dials for c, from which br has read the question, and gives that up
// when c ends before its answer.
func (g *greeter) dialAsked(ctx context.Context, c net.Conn, br *bufio.Reader, t tunnel.Target) (net.Conn, error) {
	c.SetDeadline(time.Time{})
	if br.Buffered() > 0 {
		return g.dial(ctx, c, t) // it has more to say: whether it ends then says nothing
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watch sync.WaitGroup
	watch.Go(func() {
		if _, err := br.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			cancel(errLeft)
		}
	})
	stream, err := g.dial(ctx, c, t)
	c.SetReadDeadline(time.Unix(1, 0))
	watch.Wait()
	c.SetReadDeadline(time.Time{})
	return stream, err
}
