package session_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/session"
)

// A cutConn breaks after a number of bytes written, in the middle of whatever
// is being written.
type cutConn struct {
	net.Conn
	left *atomic.Int64
}

func (c *cutConn) Write(p []byte) (int, error) {
	left := c.left.Add(-int64(len(p)))
	if left >= 0 {
		return c.Conn.Write(p)
	}
	n := max(0, int64(len(p))+left)
	c.Conn.Write(p[:n])
	c.Conn.Close()
	return int(n), errors.New("cut")
}

func cutAfter(c net.Conn, n int64) net.Conn {
	left := new(atomic.Int64)
	left.Store(n)
	return &cutConn{c, left}
}

// sendRandom writes random pieces to st until stop is closed, then ends the
// direction, and returns the hash of all it wrote.
func sendRandom(st *session.Stream, rng *rand.Rand, stop <-chan struct{}) ([]byte, error) {
	h := sha256.New()
	buf := make([]byte, 200<<10)
	for {
		select {
		case <-stop:
			return h.Sum(nil), st.CloseWrite()
		default:
		}
		n := rng.IntN(300)
		if rng.IntN(4) == 0 {
			n = rng.IntN(len(buf))
		}
		for i := range buf[:n] {
			buf[i] = byte(rng.Uint32())
		}
		h.Write(buf[:n])
		if _, err := st.Write(buf[:n]); err != nil {
			return nil, err
		}
	}
}

// receiveAll hashes what comes until io.EOF.
func receiveAll(st *session.Stream, direct bool) (h hash.Hash, err error) {
	h = sha256.New()
	if direct {
		_, err = st.WriteTo(h)
	} else {
		_, err = io.Copy(h, struct{ io.Reader }{st})
	}
	return h, err
}

// TestResume cuts the carrier at random points, within records and frames too,
// while many streams transfer both ways, and compares every byte.
func TestResume(t *testing.T) {
	t.Parallel()
	const streams = 12
	cuts := 1000
	if testing.Short() {
		cuts = 100
	}
	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()

	// Carriers of both kinds: a pipe loses nothing that was read, TCP loses
	// what the kernel held.
	carrier := func(last bool) (a, b net.Conn) {
		if rng.IntN(2) == 0 {
			a, b = tcpPair(t)
		} else {
			a, b = net.Pipe()
		}
		if last {
			return a, b
		}
		return cutAfter(a, 1000+rng.Int64N(400<<10)), cutAfter(b, 1000+rng.Int64N(400<<10))
	}
	opts := &session.Options{SendBuffer: 1 << 20}
	a, b := tcpPair(t)
	p := newSessions(t, a, b, opts, opts)

	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range streams {
		local, remote := p.open(t, fmt.Sprint(i))
		for _, dir := range [][2]*session.Stream{{local, remote}, {remote, local}} {
			sum := make(chan []byte, 1)
			seed := rng.Uint64()
			wg.Go(func() {
				s, err := sendRandom(dir[0], rand.New(rand.NewPCG(seed, 0)), stop)
				if err != nil {
					t.Errorf("stream %d: send: %v", i, err)
				}
				sum <- s
			})
			wg.Go(func() {
				h, err := receiveAll(dir[1], i%2 == 0)
				if err != nil {
					t.Errorf("stream %d: receive: %v", i, err)
				}
				if got, want := h.Sum(nil), <-sum; string(got) != string(want) {
					t.Errorf("stream %d: received other bytes than were sent", i)
				}
			})
		}
	}
	a.Close()
	n, tries := 0, 0
	for n < cuts {
		select {
		case <-p.dialler.Detached():
		case <-ctx.Done():
			t.Fatalf("after %d cuts: %v", n, ctx.Err())
		}
		a, b := carrier(n == cuts-1)
		if tries++; p.resume(ctx, a, b) == nil {
			n++
		}
		if err := p.dialler.Err(); err != nil {
			t.Fatalf("after %d cuts: session ended: %v", n, err)
		}
		if send, _ := p.dialler.Buffered(); send > 1<<20+1<<20 {
			t.Errorf("after %d cuts: %d bytes are buffered, at most 1 MiB and what control frames may take are allowed", n, send)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d cuts, %d attempts", n, tries)
}
