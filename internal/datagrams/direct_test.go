package datagrams_test

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"adit/internal/datagrams"
	"adit/internal/udpsocket"
)

// A queueConn is a stream that may be written to without waiting, if it has room.
type queueConn struct {
	net.Conn
	gate chan struct{} // Write waits for it

	mu     sync.Mutex // guards the fields below
	room   bool
	wrote  []byte
	direct int // bytes of wrote that were queued
	queued int // and not sent yet
}

func (c *queueConn) Write(p []byte) (int, error) {
	<-c.gate
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrote = append(c.wrote, p...)
	return len(p), nil
}

func (c *queueConn) TryQueue(p []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.room {
		c.wrote = append(c.wrote, p...)
		c.direct += len(p)
		c.queued += len(p)
	}
	return c.room
}

func (c *queueConn) SendQueued() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queued = 0
}

func (c *queueConn) setRoom(room bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room = room
}

// A cover is what Open returns in place of a stream.
type cover struct{ net.Conn }

func (c cover) Unwrap() net.Conn { return c.Conn }

// Whether datagrams leave at once or have to wait, they stay in order, and none
// stays behind.
func TestFlowsWriteDirectly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		stream := &queueConn{Conn: near, gate: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		var carried datagrams.Carried
		f := datagrams.NewFlows(ctx, datagrams.FlowOptions[int]{
			Open:  func(context.Context, int) (net.Conn, error) { return cover{stream}, nil },
			Reply: ignore,
			Abort: abort,
			Max:   10,
			Ended: func(_ int, c net.Conn, got datagrams.Carried) {
				if _, ok := c.(cover); !ok {
					t.Errorf("Ended is told of %T, want what Open has returned", c)
				}
				carried = got
			},
		})
		rng := rand.New(rand.NewPCG(1, 2))
		const n = 500
		send := func(i int) {
			b := binary.BigEndian.AppendUint16(nil, uint16(i))
			if got := f.Queue(1, udpsocket.Run{B: b}); got != 1 {
				t.Fatalf("there was no room for datagram %d", i)
			}
		}
		send(0) // it opens the stream
		f.Flush()
		stream.gate <- struct{}{}
		for i := 1; i < n; i++ {
			stream.setRoom(rng.IntN(2) == 0)
			send(i)
			if rng.IntN(3) == 0 {
				f.Flush()
			}
			if rng.IntN(3) == 0 {
				select {
				case stream.gate <- struct{}{}:
				default:
				}
			}
			if rng.IntN(3) == 0 {
				synctest.Wait()
			}
		}
		f.Flush()
		close(stream.gate)
		synctest.Wait()
		stream.mu.Lock()
		if stream.queued != 0 || stream.direct == 0 || stream.direct == len(stream.wrote) {
			t.Errorf("%d bytes were queued of %d and %d of them not sent; want some, and all sent", stream.direct, len(stream.wrote), stream.queued)
		}
		for i := range n {
			b := stream.wrote[i*4 : i*4+4]
			if got := binary.BigEndian.Uint16(b[2:]); b[0] != 0 || b[1] != 2 || int(got) != i {
				t.Fatalf("datagram %d is %x", i, b)
			}
		}
		if len(stream.wrote) != 4*n {
			t.Errorf("%d bytes, want %d", len(stream.wrote), 4*n)
		}
		stream.mu.Unlock()
		far.Close()
		synctest.Wait()
		if carried.Sent != 2*n || carried.Err != io.EOF {
			t.Errorf("got %+v, want %d bytes sent", carried, 2*n)
		}
		cancel()
		f.Wait()
	})
}

// Datagrams without a byte keep their place too while they are being written.
func TestFlowsQueueBehindTheEmpty(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		near, far := net.Pipe()
		defer far.Close()
		stream := &queueConn{Conn: near, gate: make(chan struct{})}
		f := datagrams.NewFlows(ctx, datagrams.FlowOptions[int]{
			Open:  func(context.Context, int) (net.Conn, error) { return stream, nil },
			Reply: ignore,
			Abort: abort,
			Max:   1,
		})
		f.Send(1, nil)
		synctest.Wait() // it is being written
		stream.setRoom(true)
		f.Send(1, []byte("x"))
		close(stream.gate)
		synctest.Wait()
		if got := string(stream.wrote); got != "\x00\x00\x00\x01x" {
			t.Errorf("got %q, want the empty one first", got)
		}
		cancel()
		f.Wait()
	})
}
