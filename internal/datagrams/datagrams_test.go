package datagrams_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/datagrams"
	"adit/internal/testdatagrams"
)

const patience = 20 * time.Second

// echo answers each datagram of a stream with itself.
func echo(t *testing.T, stream net.Conn) {
	for {
		b, err := testdatagrams.Read(stream)
		if err != nil {
			stream.Close()
			return
		}
		testdatagrams.Write(stream, b)
	}
}

func abort(stream net.Conn) { stream.Close() }

func TestRelay(t *testing.T) {
	t.Parallel()
	far, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	socket, err := net.Dial("udp", far.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, stream := net.Pipe()
	ended := make(chan error, 1)
	var in, out int64
	go func() {
		var err error
		in, out, err = datagrams.Relay(stream, socket, patience, abort)
		ended <- err
	}()
	buf := make([]byte, datagrams.MaxLen)
	sizes := []int{0, 1, 1400, 60000}
	for _, n := range sizes {
		if err := testdatagrams.Write(near, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		far.SetDeadline(time.Now().Add(patience))
		got, from, err := far.ReadFrom(buf)
		if err != nil || got != n {
			t.Fatalf("the socket's far side got %d bytes, %v; want %d", got, err, n)
		}
		far.WriteTo(buf[:n], from)
		if b, err := testdatagrams.Read(near); err != nil || len(b) != n {
			t.Fatalf("the stream's far side got %d bytes, %v; want %d", len(b), err, n)
		}
	}
	near.Close()
	if err := <-ended; err != nil || in != 61401 || out != 61401 {
		t.Errorf("Relay = %d, %d, %v; want 61401 both ways", in, out, err)
	}
}

// What nobody took is not what the next one pays for.
func TestRelayGoesOnAfterARefusal(t *testing.T) {
	t.Parallel()
	far, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := far.LocalAddr().String()
	socket, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	far.Close()
	near, stream := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		datagrams.Relay(stream, socket, patience, abort)
	}()
	for range 3 {
		if err := testdatagrams.Write(near, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if far, err = net.ListenPacket("udp", at); err != nil {
		t.Skip("the port was taken meanwhile")
	}
	defer far.Close()
	if err := testdatagrams.Write(near, []byte("here")); err != nil {
		t.Fatal(err)
	}
	far.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, 16)
	for { // some of those before may come as well
		n, _, err := far.ReadFrom(buf)
		if err != nil {
			t.Fatalf("what was sent once somebody was there did not come: %v", err)
		}
		if string(buf[:n]) == "here" {
			break
		}
	}
	near.Close()
	<-ended
}

func TestRelayEndsWhenIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, stream := net.Pipe()
		socket, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		var aborted atomic.Bool
		begin := time.Now()
		datagrams.Relay(stream, socket, time.Minute, func(c net.Conn) { aborted.Store(true); c.Close() })
		if d := time.Since(begin); d != time.Minute || !aborted.Load() {
			t.Errorf("it ended after %v, aborted %t; want 1m, and aborted", d, aborted.Load())
		}
	})
}

// reply has f called with each answer.
func reply(f func(key int, b []byte)) func(key int, list [][]byte, wait bool) (int, error) {
	return func(key int, list [][]byte, _ bool) (int, error) {
		for _, b := range list {
			f(key, b)
		}
		return len(list), nil
	}
}

var ignore = reply(func(int, []byte) {})

// newFlows returns flows whose streams answer, but for the keys that are
// negative.
func newFlows(t *testing.T, max int, answer func(key int, b []byte)) (f *datagrams.Flows[int], opened *atomic.Int32) {
	ctx, cancel := context.WithCancel(context.Background())
	opened = new(atomic.Int32)
	f = datagrams.NewFlows(ctx, datagrams.FlowOptions[int]{
		Open: func(_ context.Context, key int) (net.Conn, error) {
			opened.Add(1)
			near, far := net.Pipe()
			if key < 0 {
				go io.Copy(io.Discard, far)
			} else {
				go echo(t, far)
			}
			return near, nil
		},
		Reply:      reply(answer),
		Abort:      abort,
		Max:        max,
		Idle:       2 * time.Minute,
		Unanswered: 30 * time.Second,
	})
	t.Cleanup(func() {
		cancel()
		f.Wait()
		if n := f.Len(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
	})
	return f, opened
}

func TestFlowsKeepSendersApart(t *testing.T) {
	t.Parallel()
	got := make(chan [2]string, 30)
	f, opened := newFlows(t, 10, func(key int, b []byte) { got <- [2]string{strconv.Itoa(key), string(b)} })
	for range 3 {
		for key := range 5 {
			f.Send(key, []byte(strconv.Itoa(key)))
		}
	}
	for range 15 {
		select {
		case g := <-got:
			if g[0] != g[1] {
				t.Errorf("sender %s got what %s sent", g[0], g[1])
			}
		case <-time.After(patience):
			t.Fatal("an answer is missing")
		}
	}
	if n := opened.Load(); n != 5 {
		t.Errorf("%d streams for 5 senders", n)
	}
}

func TestFlowsEndWhenIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, _ := newFlows(t, 10, func(int, []byte) {})
		f.Send(1, []byte("x"))
		f.Send(-1, []byte("x"))
		synctest.Wait()
		for _, tt := range []struct {
			after time.Duration
			want  int
		}{{29 * time.Second, 2}, {2 * time.Second, 1}, {88 * time.Second, 1}, {2 * time.Second, 0}} {
			time.Sleep(tt.after)
			synctest.Wait()
			if n := f.Len(); n != tt.want {
				t.Fatalf("after %v more there are %d flows, want %d", tt.after, n, tt.want)
			}
		}
	})
}

// A flood of senders that nothing answers does not push out those that are
// answered, and gives way to newcomers after a second.
func TestFlowsDisplaceTheUnanswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		answered := 0
		f, _ := newFlows(t, 3, func(key int, _ []byte) {
			if key == 2 {
				answered++
			}
		})
		f.Send(1, []byte("x"))
		synctest.Wait()
		f.Send(-1, []byte("x"))
		f.Send(-2, []byte("x"))
		if f.Send(2, []byte("x")) {
			t.Error("there was room for a fourth flow at once")
		}
		time.Sleep(time.Second)
		if !f.Send(2, []byte("x")) {
			t.Error("there was no room for a newcomer after a second")
		}
		if !f.Send(1, []byte("x")) {
			t.Error("the flow that is answered was pushed out")
		}
		synctest.Wait()
		if answered != 1 {
			t.Errorf("the newcomer got %d answers, want 1", answered)
		}
		if !f.Send(-2, []byte("x")) || f.Len() != 3 {
			t.Errorf("%d flows, want 3, and the younger of those without an answer", f.Len())
		}
	})
}

// What waits for streams that are not open yet has a bound.
func TestFlowsHoldSoMuch(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	f := datagrams.NewFlows(ctx, datagrams.FlowOptions[int]{
		Open: func(ctx context.Context, _ int) (net.Conn, error) {
			<-ctx.Done()
			return nil, errors.New("too late")
		},
		Reply: ignore,
		Abort: abort,
		Max:   100,
	})
	b := make([]byte, 60000)
	bytes, packets := 0, 0
	for key := range 100 {
		for range 5 {
			if f.Send(key, b) {
				bytes += len(b)
			}
		}
	}
	if bytes < 3<<20 || bytes > 4<<20 {
		t.Errorf("%d bytes wait, want about 4 MiB", bytes)
	}
	cancel()
	f.Wait()
	ctx, cancel = context.WithCancel(context.Background())
	g := datagrams.NewFlows(ctx, datagrams.FlowOptions[int]{
		Open: func(ctx context.Context, _ int) (net.Conn, error) {
			<-ctx.Done()
			return nil, errors.New("too late")
		},
		Reply: ignore,
		Abort: abort,
		Max:   1,
	})
	for range 300 {
		if g.Send(1, []byte("x")) {
			packets++
		}
	}
	if packets != 256 {
		t.Errorf("%d datagrams wait for one flow, want 256", packets)
	}
	cancel()
	g.Wait()
}
