package hostile

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// delayed is how many pieces of at most delayedPiece bytes are on their way at
// a time.
const (
	delayed      = 512
	delayedPiece = 32 << 10
)

// NewDelay starts a device on the way to server, a host and port, that makes
// each round trip longer by rtt.
func NewDelay(t testing.TB, server string, rtt time.Duration) (addr string) {
	t.Helper()
	return listen(t, func(ctx context.Context, c net.Conn) {
		s, err := new(net.Dialer).DialContext(ctx, "tcp", server)
		if err != nil {
			return
		}
		defer s.Close()
		defer context.AfterFunc(ctx, func() { s.Close() })()
		var wg sync.WaitGroup
		wg.Go(func() { slowly(c, s, rtt/2) })
		wg.Go(func() { slowly(s, c, rtt/2) })
		wg.Wait()
	})
}

// slowly copies from src to dst, each byte as much later as delay.
func slowly(dst, src net.Conn, delay time.Duration) {
	type piece struct {
		b   []byte
		due time.Time
	}
	pieces := make(chan piece, delayed)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer dst.Close()
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			if _, err := dst.Write(p.b); err != nil {
				src.Close()
			}
		}
	}()
	for {
		b := make([]byte, delayedPiece)
		n, err := src.Read(b)
		if n > 0 {
			pieces <- piece{b[:n], time.Now().Add(delay)}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	<-done
}
