package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/internal/wsconn"
	"adit/session"
)

// patterned are the bytes of one direction of a stream: at each position another
// one, so that what is lost, doubled or moved shows.
type patterned struct{ seed, at uint64 }

func (p *patterned) byte() byte {
	x := (p.at>>3 + p.seed) * 0x9e3779b97f4a7c15
	b := byte(x >> (56 - 8*(p.at&7)))
	p.at++
	return b
}

func (p *patterned) fill(b []byte) {
	for i := range b {
		b[i] = p.byte()
	}
}

// Write compares what is written with what has to come.
func (p *patterned) Write(b []byte) (int, error) {
	for i, c := range b {
		at := p.at
		if want := p.byte(); c != want {
			return i, fmt.Errorf("byte %d is %#x, want %#x", at, c, want)
		}
	}
	return len(b), nil
}

// A source reads n patterned bytes, in pieces of all sizes.
type source struct {
	patterned
	n   uint64
	rng *rand.Rand
}

func (s *source) Read(b []byte) (int, error) {
	left := s.n - s.at
	if left == 0 {
		return 0, io.EOF
	}
	most := min(uint64(len(b)), left)
	if s.rng.IntN(4) == 0 {
		most = min(most, 1+s.rng.Uint64N(5000))
	}
	s.fill(b[:most])
	return int(most), nil
}

// TestCarriersCutAtRandom cuts carriers again and again while streams of all
// kinds carry bytes both ways, and compares each byte.
func TestCarriersCutAtRandom(t *testing.T) {
	t.Parallel()
	const streams = 12
	size := uint64(2 << 20)
	if raceEnabled {
		size /= 4
	}
	if n, err := strconv.Atoi(os.Getenv("ADIT_STRESS")); err == nil { // times as long
		size *= uint64(n)
	}
	opts := &session.Options{Window: 1 << 20, ResumeWindow: time.Minute}
	var socket atomic.Pointer[net.TCPConn] // of the present carrier
	carrier := func() (a, b net.Conn) {
		near, far := tcpPair(t)
		socket.Store(near.(*net.TCPConn))
		return wsconn.New(near, wsconn.Client, wsconn.Options{ZeroMask: true}), wsconn.New(far, wsconn.Server, wsconn.Options{})
	}
	a, b := carrier()
	p := newSessions(t, a, b, opts, opts)

	var wg sync.WaitGroup
	for i := range streams {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			out, err := p.listener.Open([]byte{byte(i)})
			if err != nil {
				t.Error(err)
				return
			}
			n := size/2 + rng.Uint64N(size)
			reset := i%4 == 3 // half way
			if err := exchange(out, n, uint64(i), rng, reset); err != nil {
				t.Errorf("stream %d, the side that opened it: %v", i, err)
			}
		})
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			in, err := p.dialler.Accept(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			k := int(in.Meta()[0])
			rng := rand.New(rand.NewPCG(uint64(k), 2))
			n := size/2 + rand.New(rand.NewPCG(uint64(k), 1)).Uint64N(size)
			if err := exchange(in, n, uint64(k), rng, false); err != nil && k%4 != 3 {
				t.Errorf("stream %d, the side that accepted it: %v", k, err)
			} else if errors.Is(err, errDiffers) {
				t.Errorf("stream %d: %v", k, err)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	rng := rand.New(rand.NewPCG(1, 2))
	cuts := 0
	for {
		pause := time.NewTimer(time.Duration(rng.IntN(20)) * time.Millisecond)
		select {
		case <-done:
			pause.Stop()
			if cuts == 0 {
				t.Error("no carrier was cut while streams were open")
			}
			return
		case <-pause.C:
		}
		if rng.IntN(2) == 0 {
			socket.Load().SetLinger(0)
		}
		socket.Load().Close()
		cuts++
		a, b := carrier()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := p.resume(ctx, a, b); err != nil {
			cancel()
			t.Errorf("Resume: %v", err)
			return
		}
		cancel()
	}
}

var errDiffers = errors.New("the bytes are not those that were sent")

// exchange sends n bytes and takes in n, in one of the ways that there are. Both
// directions have the same bytes. With reset it ends half way.
func exchange(st *session.Stream, n, seed uint64, rng *rand.Rand, reset bool) error {
	defer st.Close()
	src := &source{patterned{seed: seed}, n, rng}
	into := rand.New(rand.NewPCG(rng.Uint64(), 3))
	var wg sync.WaitGroup
	var werr error
	wg.Go(func() {
		switch rng.IntN(3) {
		case 0: // from a socket
			near, far := loopback()
			defer near.Close()
			wg.Go(func() {
				defer far.Close()
				io.Copy(far, struct{ io.Reader }{src})
			})
			_, werr = st.ReadFrom(near)
		case 1:
			_, werr = st.ReadFrom(src)
		default:
			buf := make([]byte, 300<<10)
			for werr == nil {
				var m int
				if m, werr = src.Read(buf[:1+rng.IntN(len(buf))]); werr == nil {
					_, werr = st.Write(buf[:m])
				}
			}
			if werr == io.EOF {
				werr = nil
			}
		}
		if werr == nil {
			werr = st.CloseWrite()
		}
	})
	got := &patterned{seed: seed}
	rerr := receive(st, got, n, into, reset)
	if reset {
		st.Reset(2, "half way")
	}
	wg.Wait()
	switch {
	case rerr != nil:
		return rerr
	case reset:
		return nil
	case got.at != n:
		return fmt.Errorf("%w: %d of %d bytes", errDiffers, got.at, n)
	}
	return werr
}

// receive takes in what comes, or the first half.
func receive(st *session.Stream, got *patterned, n uint64, rng *rand.Rand, half bool) error {
	if half {
		_, err := io.CopyN(got, struct{ io.Reader }{st}, int64(n/2))
		return differs(err)
	}
	way := rng.IntN(5)
	switch way {
	case 0:
		_, err := io.CopyBuffer(got, struct{ io.Reader }{st}, make([]byte, 1+rng.IntN(300<<10)))
		return differs(err)
	case 1:
		_, err := st.WriteTo(got)
		return differs(err)
	}
	near, far := loopback() // to a socket
	defer near.Close()
	if way == 2 { // that is full most of the time
		near.SetWriteBuffer(128 << 10)
		far.SetReadBuffer(128 << 10)
	}
	end := make(chan error, 1)
	go func() {
		defer far.Close()
		_, err := io.CopyBuffer(got, struct{ io.Reader }{far}, make([]byte, 200<<10))
		end <- differs(err)
	}()
	if way == 3 { // which fails, and is followed by another way to read
		near.SetWriteDeadline(time.Now().Add(time.Millisecond))
		k, err := st.WriteTo(near)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			near.CloseWrite()
			if err := <-end; err != nil {
				return err
			}
			// What the socket had been given and what was lost with it.
			if uint64(k) != got.at {
				return fmt.Errorf("%w: WriteTo counts %d bytes, %d have come", errDiffers, k, got.at)
			}
			io.Copy(io.Discard, struct{ io.Reader }{st})
			got.at = n
			return nil
		}
		near.CloseWrite()
		return errors.Join(err, <-end)
	}
	_, err := st.WriteTo(near)
	near.CloseWrite()
	return errors.Join(<-end, err)
}

func differs(err error) error {
	if err != nil && !errors.Is(err, io.EOF) {
		var re *session.ResetError
		if errors.As(err, &re) {
			return err
		}
		return fmt.Errorf("%w: %w", errDiffers, err)
	}
	return nil
}

// loopback returns both ends of a connection.
func loopback() (a, b *net.TCPConn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		panic(err)
	}
	far, err := ln.Accept()
	if err != nil {
		panic(err)
	}
	return near.(*net.TCPConn), far.(*net.TCPConn)
}
