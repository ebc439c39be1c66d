// Package hostile has the devices that stand between agents and servers in
// networks that let little through, one in each file. It is for tests alone.
//
//	proxy := hostile.NewProxy(t, hostile.ProxyOptions{Login: hostile.Basic("me", "secret")})
//	// dial through proxy.Addr
//
// Each device listens on loopback, and is gone with all of its connections when
// its test has ended.
package hostile

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"adit/internal/relay"
)

// patience bounds the waits of a device for the other end of a connection that
// is not relayed yet.
const patience = 20 * time.Second

// listen serves each connection with handle, which may keep it until ctx ends,
// when the test does. The connection is closed then, and when handle returns.
func listen(t testing.TB, handle func(ctx context.Context, c net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				continue
			}
			conns.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				handle(ctx, c)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		conns.Wait()
	})
	return l.Addr().String()
}

// join relays between a and b until both directions have ended, or ctx does.
func join(ctx context.Context, a, b net.Conn) {
	defer context.AfterFunc(ctx, func() {
		a.Close()
		b.Close()
	})()
	relay.Relay(a, b, relay.Options{})
}
