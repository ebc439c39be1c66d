package tcpws

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Connections whose callers do not read hold the pipes. There are no more of
// these than the kernel's budget for a user has room for, the others copy, and
// all pipes are there again afterwards.
func TestPipesAreBounded(t *testing.T) {
	p := newPath(t, false)
	const many, size = maxPipes + 4, 16 << 20
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
	for made.Load() < maxPipes && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond) // a full pipe tells nobody
	}
	if n := made.Load(); n != maxPipes {
		t.Errorf("got %d pipes while %d connections are stuck, want %d", n, many, maxPipes)
	}
	for _, c := range callers {
		if n, err := io.Copy(io.Discard, c); n != size || err != nil {
			t.Errorf("got %d bytes, %v, want %d", n, err, size)
		}
	}
	targets.Wait()
	for (made.Load() > keptPipes || int(made.Load()) != len(pipes)) && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if n := made.Load(); n > keptPipes || int(n) != len(pipes) {
		t.Errorf("got %d pipes of which %d are idle, want at most %d, all idle", n, len(pipes), keptPipes)
	}
}

// A pattern is endless.
type pattern struct{}

func (pattern) Read(b []byte) (int, error) { return len(b), nil }
