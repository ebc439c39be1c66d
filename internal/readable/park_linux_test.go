package readable_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/readable"
)

// parked waits for what Park was given, for a while.
func parked(t *testing.T, called <-chan struct{}) {
	t.Helper()
	select {
	case <-called:
	case <-time.After(10 * time.Second):
		t.Fatal("Park's function was not called")
	}
}

func TestPark(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		for _, tt := range []struct {
			name string
			act  func(w *readable.Waiter, a, b net.Conn)
		}{
			{"data", func(_ *readable.Waiter, _, b net.Conn) { b.Write([]byte("hello")) }},
			{"end", func(_ *readable.Waiter, _, b net.Conn) { b.Close() }},
			{"half-close", func(_ *readable.Waiter, _, b net.Conn) { b.(interface{ CloseWrite() error }).CloseWrite() }},
			{"unpark", func(w *readable.Waiter, _, _ net.Conn) { w.Unpark() }},
			{"close and unpark", func(w *readable.Waiter, a, _ net.Conn) { a.Close(); w.Unpark() }},
		} {
			for _, before := range []bool{true, false} {
				name := network + "/" + tt.name
				if before {
					if tt.name == "unpark" || tt.name == "close and unpark" {
						continue
					}
					name += " before"
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					a, b := pair(t, network)
					var w readable.Waiter
					w.Init(raw(t, a))
					called := make(chan struct{}, 2)
					if before {
						tt.act(&w, a, b)
					}
					if !w.Park(func() { called <- struct{}{} }) {
						t.Fatal("Park = false, want true")
					}
					if !before {
						tt.act(&w, a, b)
					}
					parked(t, called)
					w.Unpark()
					select {
					case <-called:
						t.Error("Park's function was called twice")
					default:
					}
				})
			}
		}
	}
}

// One goroutine waits for many, again and again, some of which are closed
// meanwhile.
func TestParkMany(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for i := range 100 {
		a, b := pair(t, "tcp")
		wg.Go(func() {
			var w readable.Waiter
			w.Init(raw(t, a))
			buf := make([]byte, 1)
			for range 50 {
				called := make(chan struct{})
				if !w.Park(func() { close(called) }) {
					t.Error("Park = false, want true")
					return
				}
				b.Write([]byte("x"))
				<-called
				if n, err := a.Read(buf); n != 1 || err != nil {
					t.Errorf("Read = %d, %v, want a byte", n, err)
					return
				}
			}
			if i%2 == 0 {
				called := make(chan struct{})
				w.Park(func() { close(called) })
				a.Close()
				w.Unpark()
				<-called
			}
		})
	}
	wg.Wait()
}

func TestParkOfAClosedConn(t *testing.T) {
	t.Parallel()
	a, _ := pair(t, "tcp")
	var w readable.Waiter
	w.Init(raw(t, a))
	a.Close()
	if w.Park(func() { t.Error("Park's function was called, want Park to refuse") }) {
		t.Error("Park of a closed conn = true, want false")
	}
	w.Unpark()
}

// TestParkAndClose parks conns while somebody closes them, and others take their
// descriptors at once. Each function is called once if Park says so, and else
// never.
func TestParkAndClose(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for j := range 30 {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Error(err)
					return
				}
				b, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				a, err := ln.Accept()
				ln.Close()
				if err != nil {
					t.Error(err)
					return
				}
				var w readable.Waiter
				w.Init(raw(t, a))
				var acts sync.WaitGroup
				acts.Go(func() {
					a.Close()
					w.Unpark()
				})
				if (i+j)%3 == 0 {
					acts.Go(func() { b.Write([]byte("x")) })
				}
				var calls atomic.Int32
				called := make(chan struct{}, 1)
				parked := w.Park(func() {
					calls.Add(1)
					called <- struct{}{}
				})
				acts.Wait()
				if parked {
					select {
					case <-called:
					case <-time.After(10 * time.Second):
						t.Error("Park's function was not called")
					}
				}
				w.Unpark()
				if n := calls.Load(); parked != (n == 1) {
					t.Errorf("Park = %v, and its function was called %d times", parked, n)
				}
				b.Close()
			}
		})
	}
	wg.Wait()
}
