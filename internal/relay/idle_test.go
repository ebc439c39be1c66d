package relay_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/relay"
)

func TestIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const idle = 10 * time.Second
		visitor, a := net.Pipe()
		b, upstream := net.Pipe()
		var mu sync.Mutex
		var causes []error
		opts := relay.Options{Idle: idle, Abort: func(c net.Conn, cause error) {
			mu.Lock()
			defer mu.Unlock()
			causes = append(causes, cause)
			c.Close()
		}}
		done := make(chan outcome, 1)
		begin := time.Now()
		go func() {
			res, err := relay.Relay(a, b, opts)
			done <- outcome{res, err}
		}()
		for range 5 { // not idle, though for longer than the limit in all
			time.Sleep(idle / 2) // the bubble's clock
			io.WriteString(visitor, "x")
			io.ReadFull(upstream, make([]byte, 1))
		}
		last := time.Now()
		o := <-done
		if !errors.Is(o.err, relay.ErrIdle) || o.res.AtoB != 5 {
			t.Errorf("Relay: got %+v, %v, want 5 bytes and %v", o.res, o.err, relay.ErrIdle)
		}
		if d := time.Since(last); d < idle || d > 2*idle {
			t.Errorf("ended %v after the last byte and %v after the start, want %v to %v", d, time.Since(begin), idle, 2*idle)
		}
		if len(causes) != 2 || causes[0] != relay.ErrIdle || causes[1] != relay.ErrIdle {
			t.Errorf("Abort: got causes %v, want %v for both conns", causes, relay.ErrIdle)
		}
	})
}

// Both sides hear why they end, and not of each other's end: which of those comes
// first is a matter of microseconds.
func TestIdleIsTheCause(t *testing.T) {
	t.Parallel()
	var others atomic.Int64
	for range 500 {
		var wg sync.WaitGroup
		for range 4 {
			_, a := net.Pipe()
			b, _ := net.Pipe()
			wg.Go(func() {
				relay.Relay(a, b, relay.Options{Idle: time.Microsecond, Abort: func(c net.Conn, cause error) {
					if cause != relay.ErrIdle {
						others.Add(1)
					}
					c.Close()
				}})
			})
		}
		wg.Wait()
	}
	if n := others.Load(); n != 0 {
		t.Errorf("%d conns were ended with another cause than %v", n, relay.ErrIdle)
	}
}

// A reader that has stopped reading counts as idle, too: the relay does not
// wait in Write for ever.
func TestIdleWhileWriting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		visitor, a := net.Pipe()
		b, _ := net.Pipe()
		done := make(chan outcome, 1)
		go func() {
			res, err := relay.Relay(a, b, relay.Options{Idle: time.Second})
			done <- outcome{res, err}
		}()
		io.WriteString(visitor, "nobody reads this")
		if o := <-done; !errors.Is(o.err, relay.ErrIdle) {
			t.Errorf("Relay: got %v, want %v", o.err, relay.ErrIdle)
		}
	})
}
