package datagrams_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/datagrams"
	"adit/internal/testdatagrams"
)

// Who has no stream, or one that ends at once, is not given another for each
// datagram; unless it is to be forgotten.
func TestFlowsTryOnceInASecond(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		open func() (net.Conn, error)
		want int // attempts at 15 datagrams in 1.5 s
	}{
		{"no stream", func() (net.Conn, error) { return nil, errors.New("no") }, 2},
		{"a stream that is refused late", func() (net.Conn, error) {
			near, far := net.Pipe()
			far.Close()
			return near, nil
		}, 2},
		{"forgotten", func() (net.Conn, error) { return nil, fmt.Errorf("no: %w", datagrams.ErrForget) }, 15},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				n := 0
				f := datagrams.NewFlows(ctx, datagrams.FlowOptions[int]{
					Open:  func(context.Context, int) (net.Conn, error) { n++; return tt.open() },
					Reply: ignore,
					Abort: abort,
					Max:   10,
				})
				for range 15 {
					f.Send(1, []byte("x"))
					synctest.Wait()
					time.Sleep(100 * time.Millisecond)
				}
				if n != tt.want {
					t.Errorf("%d attempts, want %d", n, tt.want)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if n := f.Len(); n != 0 {
					t.Errorf("%d flows are left", n)
				}
				cancel()
				f.Wait()
			})
		})
	}
}

// Flows that are answered give their places away when they have been quiet, the
// one that has been so longest first.
func TestFlowsDisplaceTheQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, opened := newFlows(t, 3, func(int, []byte) {})
		for key := 1; key <= 3; key++ {
			f.Send(key, []byte("x"))
			synctest.Wait()
			time.Sleep(time.Second)
		}
		f.Send(1, []byte("x"))
		if f.Send(4, []byte("x")) {
			t.Error("a flow lost its place that had just carried something")
		}
		time.Sleep(4 * time.Second)
		if !f.Send(4, []byte("x")) {
			t.Fatal("no room though one flow has been quiet for 6 s")
		}
		synctest.Wait()
		before := opened.Load()
		for _, key := range []int{1, 3, 4} {
			f.Send(key, []byte("x"))
		}
		synctest.Wait()
		if n := opened.Load() - before; n != 0 {
			t.Errorf("%d of those that stay were opened anew", n)
		}
	})
}

// Ended is told what was carried, and how the stream ended.
func TestFlowsTellTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var got []datagrams.Carried
		var keys []int
		f := datagrams.NewFlows(ctx, datagrams.FlowOptions[int]{
			Open: func(_ context.Context, key int) (net.Conn, error) {
				near, far := net.Pipe()
				go func() {
					for range 3 {
						testdatagrams.Read(far)
					}
					testdatagrams.Write(far, []byte("1234567"))
					if key == 2 {
						far.Close()
						return
					}
					io.Copy(io.Discard, far)
				}()
				return near, nil
			},
			Reply: ignore,
			Abort: abort,
			Max:   10,
			Idle:  time.Minute,
			Ended: func(key int, _ net.Conn, c datagrams.Carried) { keys, got = append(keys, key), append(got, c) },
		})
		for _, text := range []string{"a", "", "bcd"} {
			f.Send(2, []byte(text))
		}
		synctest.Wait()
		for _, text := range []string{"a", "", "bcd"} {
			f.Send(1, []byte(text))
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		cancel()
		f.Wait()
		if fmt.Sprint(keys) != "[2 1]" || fmt.Sprint(got) != "[{4 7 EOF} {4 7 <nil>}]" {
			t.Errorf("got %v of %v, want 4 and 7 bytes of each, and the end of one that its far side ended", got, keys)
		}
	})
}
