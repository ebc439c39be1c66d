package tunneltest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/tunnel"
)

// maxBuffered is more than a session may hold of one stream, in bytes, before
// its writer has to wait for the reader.
const maxBuffered = 64 << 20

// serve accepts n streams and handles each in its own goroutine. wait returns
// when all have ended; an error of handle fails the test.
func (p *pair) serve(n int, handle func(net.Conn) error) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		defer wg.Wait()
		for i := range n {
			conn, err := p.ln.Accept()
			if err != nil {
				p.Errorf("Accept of stream %d of %d: %v", i+1, n, err)
				return
			}
			wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				if err := answer(conn); err != nil {
					p.Errorf("answer: %v", err)
					return
				}
				if err := handle(conn); err != nil {
					p.Errorf("agent: %v", err)
				}
			})
		}
	}()
	return func() {
		p.Helper()
		select {
		case <-done:
			return
		case <-p.ctx.Done():
		}
		p.Errorf("the agent's side still waits after %v", patience)
		p.tun.Close() // unblocks Accept and the handlers
		p.ln.Close()
		<-done
	}
}

// A transfer is an exchange of payloads; it crosses the stream as a header, so
// that the agent's side knows what to do.
type transfer struct {
	seed     uint64
	up, down int64 // bytes to and from the agent
}

const transferLen = 24

func (tr transfer) run(c net.Conn) error {
	var h [transferLen]byte
	binary.BigEndian.PutUint64(h[:], tr.seed)
	binary.BigEndian.PutUint64(h[8:], uint64(tr.up))
	binary.BigEndian.PutUint64(h[16:], uint64(tr.down))
	if _, err := c.Write(h[:]); err != nil {
		return fmt.Errorf("send header: %w", err)
	}
	if err := exchange(c, tr.seed, tr.up, tr.seed+1, tr.down); err != nil {
		return fmt.Errorf("transfer %+v: %w", tr, err)
	}
	return nil
}

// serveTransfer is the agent's side of a transfer.
func serveTransfer(c net.Conn) error {
	var h [transferLen]byte
	if _, err := io.ReadFull(c, h[:]); err != nil {
		return fmt.Errorf("receive header: %w", err)
	}
	tr := transfer{
		seed: binary.BigEndian.Uint64(h[:]),
		up:   int64(binary.BigEndian.Uint64(h[8:])),
		down: int64(binary.BigEndian.Uint64(h[16:])),
	}
	if err := exchange(c, tr.seed+1, tr.down, tr.seed, tr.up); err != nil {
		return fmt.Errorf("transfer %+v: %w", tr, err)
	}
	if _, ok := c.(tunnel.HalfCloser); !ok {
		// Without half-close the opener closes first: it has everything then.
		if n, err := c.Read(make([]byte, 1)); err == nil {
			return fmt.Errorf("transfer %+v: %d bytes too many", tr, n)
		}
	}
	return nil
}

// runTransfer opens a stream for tr.
func (p *pair) runTransfer(tr transfer) {
	p.Helper()
	near, err := p.tun.OpenStream(p.ctx, tunnel.StreamInfo{Service: "test"})
	if err != nil {
		p.Errorf("open stream: %v", err)
		return
	}
	defer near.Close()
	near.SetDeadline(time.Now().Add(patience))
	if err := tr.run(near); err != nil {
		p.Errorf("server: %v", err)
	}
}

// testStall has one stream whose reader does nothing, beside others.
func testStall(p *pair) {
	p.bothWays(func(p *pair, from, to net.Conn) {
		const others, size = 20, 1 << 20

		type count struct {
			n   int64
			err error
		}
		stalled := make(chan count, 1)
		go func() {
			src, buf := generator(1), make([]byte, 64<<10)
			var c count
			for c.err == nil && c.n < maxBuffered {
				src.Read(buf)
				var n int
				n, c.err = from.Write(buf)
				c.n += int64(n)
			}
			stalled <- c
		}()

		wait := p.serve(others, serveTransfer)
		var wg sync.WaitGroup
		for i := range others {
			wg.Go(func() { p.runTransfer(transfer{uint64(1000 + i), size, size}) })
		}
		wg.Wait()
		wait()

		from.SetWriteDeadline(time.Unix(1, 0))
		c := await(p, stalled, "Write")
		if !errors.Is(c.err, os.ErrDeadlineExceeded) {
			p.Fatalf("Write nobody reads: got error %v after %d bytes, want %v", c.err, c.n, os.ErrDeadlineExceeded)
		}
		// The stalled stream has lost nothing.
		if err := receive(to, 1, c.n, false); err != nil {
			p.Errorf("the stalled stream, read at last: %v", err)
		}
		from.SetWriteDeadline(time.Now().Add(patience))
		p.talk(from, to, "well again")
	})
}

func testFlood(p *pair) {
	const streams, most = 200, 1 << 20
	p.runTransferOnce()
	base, _ := goroutines(p.T)

	rnd := rand.New(rand.NewPCG(1, 2))
	size := func() int64 {
		// Each power of two is as likely, so that short ones are not rare.
		return rnd.Int64N(1<<rnd.IntN(21) + 1)
	}
	wait := p.serve(streams, serveTransfer)
	var wg sync.WaitGroup
	for i := range streams {
		tr := transfer{seed: uint64(1000 + i), up: size(), down: size()}
		if i < 4 {
			tr.up, tr.down = most, most
		}
		wg.Go(func() { p.runTransfer(tr) })
	}
	wg.Wait()
	wait()
	p.settle(base)
}

// runTransferOnce has a session start what it starts with its first stream.
func (p *pair) runTransferOnce() {
	wait := p.serve(1, serveTransfer)
	p.runTransfer(transfer{7, 1000, 1000})
	wait()
}

// testChurn opens streams and ends them at once, in all the ways there are.
func testChurn(p *pair) {
	streams, workers := 2000, 50
	if testing.Short() {
		streams = 200
	}
	p.runTransferOnce()
	base, _ := goroutines(p.T)

	wait := p.serve(streams, func(c net.Conn) error {
		buf := make([]byte, 1)
		n, err := c.Read(buf)
		if n == 1 && buf[0] == 'e' { // echo, and let the opener close
			c.Write(buf)
			c.Read(buf)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("stream that ended: Read: %w", err)
		}
		return nil
	})
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(streams); i = next.Add(1) {
				if err := p.churn(i); err != nil {
					p.Errorf("stream %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	wait()
	p.settle(base)
	p.talkOnNewStream()
}

// churn is the i-th stream of testChurn.
func (p *pair) churn(i int64) error {
	near, err := p.tun.OpenStream(p.ctx, tunnel.StreamInfo{})
	if err != nil {
		return err
	}
	defer near.Close()
	near.SetDeadline(time.Now().Add(patience))
	switch i % 4 {
	case 0: // close at once
	case 1: // close with a byte on the way
		_, err = near.Write([]byte("c"))
	case 2:
		if r, ok := near.(tunnel.Resetter); ok {
			err = r.Reset(tunnel.ResetCancelled, "")
		}
	case 3:
		if _, err = near.Write([]byte("e")); err == nil {
			_, err = io.ReadFull(near, make([]byte, 1))
		}
	}
	return err
}
