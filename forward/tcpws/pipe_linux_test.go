package tcpws

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"adit/internal/pipe"
)

// Connections whose callers do not read hold the pipes. There are no more of
// these than the kernel's budget for a user has room for, the others copy, and
// all pipes are there again afterwards.
func TestPipesAreBounded(t *testing.T) {
	p := newPath(t, false)
	const many, size = pipe.Max + 4, 16 << 20
	var callers []*net.TCPConn
	var targets sync.WaitGroup
	for range many {
		caller, target := p.open(t)
		callers = append(callers, caller)
		targets.Go(func() {
			io.CopyN(target, pattern{}, size)
			target.Close()
		})
	}
	deadline := time.Now().Add(patience)
	for madePipes() < pipe.Max && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond) // a full pipe tells nobody
	}
	if n := madePipes(); n != pipe.Max {
		t.Errorf("got %d pipes while %d connections are stuck, want %d", n, many, pipe.Max)
	}
	for _, c := range callers {
		if n, err := io.Copy(io.Discard, c); n != size || err != nil {
			t.Errorf("got %d bytes, %v, want %d", n, err, size)
		}
	}
	targets.Wait()
	tidy := func() bool {
		n, idle := pipe.Made()
		return n <= pipe.Kept && n == idle
	}
	for !tidy() && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if !tidy() {
		n, idle := pipe.Made()
		t.Errorf("got %d pipes of which %d are idle, want at most %d, all idle", n, idle, pipe.Kept)
	}
}

func madePipes() int {
	n, _ := pipe.Made()
	return n
}

// A pattern is endless.
type pattern struct{}

func (pattern) Read(b []byte) (int, error) { return len(b), nil }
