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

	"adit/internal/hangup"
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
// when c ends before its answer. Where it has more to say already, its end alone
// says nothing.
func (g *greeter) dialAsked(ctx context.Context, c net.Conn, br *bufio.Reader, t tunnel.Target) (net.Conn, error) {
	c.SetDeadline(time.Time{})
	return dialUnlessLeft(ctx, func(ctx context.Context) (net.Conn, error) {
		return g.dial(ctx, c, t)
	}, func(ctx context.Context) bool { return ended(ctx, c, br) || ctx.Err() == nil && hangup.Left(ctx, c) })
}

// ended blocks until c has more to say, and reports false, or ends. If ctx ends
// before it reports false too.
func ended(ctx context.Context, c net.Conn, br *bufio.Reader) bool {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		c.SetReadDeadline(time.Unix(1, 0))
	})
	_, err := br.Peek(1)
	if !stop() {
		<-woken
	}
	c.SetReadDeadline(time.Time{})
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// dialUnlessLeft dials, and cancels that with errLeft when left reports true. The
// ctx of left ends when there is no more need to know.
func dialUnlessLeft(ctx context.Context, dial func(context.Context) (net.Conn, error), left func(context.Context) bool) (net.Conn, error) {
	dialling, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var watch sync.WaitGroup
	watch.Go(func() {
		if left(watching) {
			giveUp(errLeft)
		}
	})
	c, err := dial(dialling)
	stop()
	watch.Wait()
	return c, err
}
