package datagrams_test

import (
	"bytes"
	"context"
	"net"
	"runtime"
	"testing"
	"time"

	"adit/internal/datagrams"
	"adit/internal/testdatagrams"
)

// What waits for streams that take nothing does not pin memory that others have
// needed for more.
func TestFlowsHoldNoMoreThanTheyHave(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	const stalled = 400
	arrived := make(chan struct{}, 1)
	f := datagrams.NewFlows(ctx, datagrams.FlowOptions[int]{
		Open: func(ctx context.Context, key int) (net.Conn, error) {
			near, far := net.Pipe()
			if key == 0 {
				go func() {
					for {
						b, err := testdatagrams.Read(far)
						if err != nil {
							return
						}
						if len(b) == 1 {
							testdatagrams.Write(far, b)
						}
					}
				}()
			}
			return near, nil
		},
		Reply: reply(func(int, []byte) { arrived <- struct{}{} }),
		Abort: abort,
		Max:   stalled + 1,
	})
	defer f.Wait()
	defer cancel()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	big := bytes.Repeat([]byte("x"), 60_000)
	for key := range stalled {
		f.Send(0, big) // which leaves a large block behind
		f.Send(0, []byte("y"))
		select {
		case <-arrived:
		case <-time.After(patience):
			t.Fatal("the flow that is read has stalled")
		}
		if !f.Send(key+1, []byte("x")) {
			t.Fatalf("no room for flow %d", key+1)
		}
	}
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := int64(after.HeapAlloc) - int64(before.HeapAlloc); got > 16<<20 {
		t.Errorf("%d flows with a byte each hold %d MiB", stalled, got>>20)
	}
}
