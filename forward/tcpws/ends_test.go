package tcpws

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

func numbers(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

// What one side sends before it closes arrives, and then an end which is none of
// a reset, also if that is read slowly.
func TestCloseAfterSending(t *testing.T) {
	t.Parallel()
	withOriginals(t, func(t *testing.T, p *path) {
		for name, tt := range map[string]struct {
			size int
			swap bool
			slow time.Duration // before the first read
		}{
			"caller":                {5 << 20, false, 0},
			"caller, slow target":   {16 << 20, false, 300 * time.Millisecond},
			"caller, little":        {3, false, 0},
			"target":                {5 << 20, true, 0},
			"target, slow caller":   {16 << 20, true, 300 * time.Millisecond},
			"target, little":        {3, true, 0},
			"target, nothing":       {0, true, 0},
			"caller, nothing at it": {0, false, 0},
		} {
			t.Run(name, func(t *testing.T) {
				from, to := p.open(t)
				if tt.swap {
					from, to = to, from
				}
				want := numbers(tt.size)
				var wg sync.WaitGroup
				wg.Go(func() {
					from.Write(want)
					from.Close()
				})
				time.Sleep(tt.slow)
				got, err := io.ReadAll(to)
				wg.Wait()
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
				}
			})
		}
	})
}

// The other side of an original gets an end for a reset, as always.
func TestResetBesideAnOriginal(t *testing.T) {
	t.Parallel()
	withOriginals(t, func(t *testing.T, p *path) {
		for name, swap := range map[string]bool{"caller": false, "target": true} {
			t.Run(name, func(t *testing.T) {
				from, to := p.open(t)
				if swap {
					from, to = to, from
				}
				io.WriteString(from, "some")
				if _, err := io.ReadFull(to, make([]byte, 4)); err != nil {
					t.Fatal(err)
				}
				abort(from)
				if got, err := io.ReadAll(to); len(got) > 0 || err != nil {
					t.Errorf("got %q, %v, want the end", got, err)
				}
			})
		}
	})
}

func TestEarlyAnswersBesideAnOriginal(t *testing.T) {
	t.Parallel()
	withOriginals(t, func(t *testing.T, p *path) {
		const times = 100
		lost := 0
		for range times {
			caller, target := p.open(t)
			var wg sync.WaitGroup
			wg.Go(func() { caller.Write(make([]byte, 4<<20)) })
			io.ReadFull(target, make([]byte, 64<<10))
			io.WriteString(target, "early answer")
			if p.passed != nil {
				<-p.passed // an original server forgets what it has not read by then
			}
			target.Close()
			if got, _ := io.ReadAll(caller); string(got) != "early answer" {
				lost++
			}
			caller.Close()
			wg.Wait()
		}
		if lost > 0 {
			t.Errorf("%d of %d were lost", lost, times)
		}
	})
}

func TestManyBesideAnOriginal(t *testing.T) {
	t.Parallel()
	withOriginals(t, func(t *testing.T, p *path) {
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			for range 200 {
				c, err := p.target.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer c.Close()
					io.Copy(c, c)
				})
			}
		})
		for i := range 200 {
			wg.Go(func() {
				c, err := net.Dial("tcp", p.caller)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				want := bytes.Repeat(fmt.Appendf(nil, "%08d", i), 4096)
				go c.Write(want)
				got := make([]byte, len(want))
				if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
					t.Errorf("caller %d: got %d bytes, %v", i, n, err)
				}
			})
		}
	})
}

// An original client waits for nothing but its handshake: a target that does not
// answer keeps none of its callers waiting.
func TestHangingTargetSparesAnOriginalClient(t *testing.T) {
	t.Parallel()
	target := listen(t)
	asked, hang := make(chan struct{}, 1), make(chan struct{})
	s := NewServer(ServerOptions{Target: target.Addr().String(), DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		select {
		case asked <- struct{}{}: // the first one
			select {
			case <-hang:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		default:
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}})
	p := &path{target: target, caller: running(t, modelClient(running(t, s.Serve)))}
	first, err := net.Dial("tcp", p.caller)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	io.WriteString(first, "first")
	for end := time.Now().Add(patience); len(asked) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the target of the first caller was not dialled")
		}
	}
	caller, second := p.open(t)
	io.WriteString(caller, "second")
	if _, err := io.ReadFull(second, make([]byte, 6)); err != nil {
		t.Fatalf("the second caller: %v", err)
	}
	close(hang)
	c, err := target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Errorf("what the first caller has sent meanwhile: %v", err)
	}
}

// A server that ends gives up a target that does not answer.
func TestCloseWhileDialling(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	s := NewServer(ServerOptions{Target: "127.0.0.1:1", DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	l := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	ws, _, err := modelHandshake(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	<-asked
	cancel()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("it waits for the target")
	}
}
