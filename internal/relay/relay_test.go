package relay_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"adit/internal/relay"
	"adit/internal/testtcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns both ends of a TCP conn, which t closes.
func pair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	a, b = testtcp.Pair(t)
	for _, c := range []net.Conn{a, b} {
		c.SetDeadline(time.Now().Add(time.Minute))
	}
	return a, b
}

type outcome struct {
	res relay.Result
	err error
}

// start relays between two TCP conns, and returns their other ends.
func start(t testing.TB, opts relay.Options) (visitor, upstream *net.TCPConn, done <-chan outcome) {
	t.Helper()
	visitor, a := pair(t)
	b, upstream := pair(t)
	ch := make(chan outcome, 1)
	go func() {
		res, err := relay.Relay(a, b, opts)
		ch <- outcome{res, err}
	}()
	return visitor, upstream, ch
}

func payload(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}

func TestBothWays(t *testing.T) {
	t.Parallel()
	visitor, upstream, done := start(t, relay.Options{})
	up, down := payload(5<<20+1), payload(3<<20+7)

	var wg sync.WaitGroup
	ends := []struct {
		conn     *net.TCPConn
		out, in  []byte
		received []byte
	}{{conn: visitor, out: up, in: down}, {conn: upstream, out: down, in: up}}
	for i := range ends {
		e := &ends[i]
		wg.Go(func() {
			if _, err := e.conn.Write(e.out); err != nil {
				t.Errorf("Write: %v", err)
			}
			e.conn.CloseWrite()
		})
		wg.Go(func() {
			var err error
			if e.received, err = io.ReadAll(e.conn); err != nil {
				t.Errorf("Read: %v", err)
			}
		})
	}
	wg.Wait()
	for i, e := range ends {
		if !bytes.Equal(e.received, e.in) {
			t.Errorf("end %d: got %d bytes that differ from the %d sent", i, len(e.received), len(e.in))
		}
	}
	want := relay.Result{AtoB: int64(len(up)), BtoA: int64(len(down))}
	if o := <-done; o.err != nil || o.res != want {
		t.Errorf("Relay: got %+v, %v, want %+v", o.res, o.err, want)
	}
}

func TestHalfClose(t *testing.T) {
	t.Parallel()
	visitor, upstream, done := start(t, relay.Options{})
	io.WriteString(visitor, "question")
	visitor.CloseWrite()
	if got, err := io.ReadAll(upstream); err != nil || string(got) != "question" {
		t.Fatalf("upstream: got %q, %v, want %q", got, err, "question")
	}
	io.WriteString(upstream, "answer")
	upstream.Close()
	if got, err := io.ReadAll(visitor); err != nil || string(got) != "answer" {
		t.Fatalf("visitor: got %q, %v, want %q", got, err, "answer")
	}
	if o := <-done; o.err != nil {
		t.Errorf("Relay: %v", o.err)
	}
}

func TestReset(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		pick func(visitor, upstream *net.TCPConn) (resets, sees *net.TCPConn)
	}{
		{"by visitor", func(v, u *net.TCPConn) (_, _ *net.TCPConn) { return v, u }},
		{"by upstream", func(v, u *net.TCPConn) (_, _ *net.TCPConn) { return u, v }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			visitor, upstream, done := start(t, relay.Options{})
			resets, sees := tt.pick(visitor, upstream)
			io.WriteString(resets, "x")
			io.ReadFull(sees, make([]byte, 1))
			resets.SetLinger(0)
			resets.Close()
			if _, err := sees.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("Read at the other end: got %v, want %v", err, syscall.ECONNRESET)
			}
			if o := <-done; !errors.Is(o.err, syscall.ECONNRESET) {
				t.Errorf("Relay: got %v, want %v", o.err, syscall.ECONNRESET)
			}
		})
	}
}

// A visitor that has half-closed and then goes is noticed though nothing is
// written to it.
func TestGoneAfterHalfClose(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("cannot be told on windows")
	}
	visitor, upstream, done := start(t, relay.Options{})
	visitor.CloseWrite()
	if _, err := io.ReadAll(upstream); err != nil {
		t.Fatal(err)
	}
	visitor.SetLinger(0)
	visitor.Close()
	if o := <-done; !errors.Is(o.err, syscall.ECONNRESET) {
		t.Errorf("Relay: got %v, want %v", o.err, syscall.ECONNRESET)
	}
}

// An upstream that answers and closes while the upload runs: the answer gets
// through, although the relay's next write fails.
func TestAnswerDuringUpload(t *testing.T) {
	t.Parallel()
	visitor, upstream, done := start(t, relay.Options{})
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := visitor.Write(buf); err != nil {
				return
			}
		}
	})
	io.ReadFull(upstream, make([]byte, 1<<20))
	io.WriteString(upstream, "413 too large")
	upstream.CloseWrite()
	got := make([]byte, len("413 too large"))
	if _, err := io.ReadFull(visitor, got); err != nil || string(got) != "413 too large" {
		t.Errorf("visitor: got %q, %v", got, err)
	}
	upstream.Close() // with bytes unread: a reset
	if o := <-done; o.err == nil {
		t.Error("Relay: got no error, want that of the upload")
	}
	wg.Wait()
}

func TestCloseFromOutside(t *testing.T) {
	t.Parallel()
	visitor, a := pair(t)
	b, upstream := pair(t)
	done := make(chan outcome, 1)
	go func() {
		res, err := relay.Relay(a, b, relay.Options{})
		done <- outcome{res, err}
	}()
	io.WriteString(visitor, "x")
	io.ReadFull(upstream, make([]byte, 1))
	a.Close()
	if o := <-done; !errors.Is(o.err, net.ErrClosed) {
		t.Errorf("Relay: got %v, want %v", o.err, net.ErrClosed)
	}
}

// A side that takes no more bytes and yet never ends is given some time, and
// no more, even if the other direction waits in Write.
func TestLastWordsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		visitor, a := net.Pipe()
		b, upstream := net.Pipe()
		done := make(chan outcome, 1)
		go func() {
			res, err := relay.Relay(brokenConn{a}, b, relay.Options{})
			done <- outcome{res, err}
		}()
		io.WriteString(upstream, "this cannot be written")
		io.WriteString(visitor, "this nobody reads")
		begin := time.Now()
		if o := <-done; !errors.Is(o.err, syscall.EPIPE) {
			t.Errorf("Relay: got %v, want %v", o.err, syscall.EPIPE)
		}
		if d := time.Since(begin); d == 0 || d > 10*time.Second {
			t.Errorf("the relay ended after %v, want some seconds", d)
		}
	})
}

// brokenConn cannot be written to.
type brokenConn struct{ net.Conn }

func (brokenConn) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// pipeConn has neither CloseWrite nor a raw conn.
type pipeConn struct{ net.Conn }

func TestWithoutHalfClose(t *testing.T) {
	t.Parallel()
	visitor, a := net.Pipe()
	b, upstream := net.Pipe()
	done := make(chan outcome, 1)
	go func() {
		res, err := relay.Relay(pipeConn{a}, pipeConn{b}, relay.Options{})
		done <- outcome{res, err}
	}()
	go func() { io.WriteString(visitor, "last"); visitor.Close() }()
	if got, err := io.ReadAll(upstream); err != nil || string(got) != "last" {
		t.Errorf("upstream: got %q, %v, want %q", got, err, "last")
	}
	if o := <-done; o.err != nil || o.res.AtoB != 4 {
		t.Errorf("Relay: got %+v, %v, want 4 bytes and no error", o.res, o.err)
	}
}

// movingConn moves bytes by itself, as native streams do.
type movingConn struct {
	net.Conn
	readFrom atomic.Pointer[io.Reader]
	wroteTo  atomic.Bool
}

func (m *movingConn) ReadFrom(r io.Reader) (int64, error) {
	m.readFrom.Store(&r)
	return io.Copy(struct{ io.Writer }{m.Conn}, r)
}

func (m *movingConn) WriteTo(w io.Writer) (int64, error) {
	m.wroteTo.Store(true)
	return io.Copy(w, struct{ io.Reader }{m.Conn})
}

func (m *movingConn) CloseWrite() error { return m.Conn.(*net.TCPConn).CloseWrite() }

// otherConn is no socket, and moves nothing by itself.
type otherConn struct{ net.Conn }

func (o *otherConn) CloseWrite() error { return o.Conn.(*net.TCPConn).CloseWrite() }

func TestLeavesItToTheConn(t *testing.T) {
	t.Parallel()
	visitor, a := pair(t)
	b, upstream := pair(t)
	m := &movingConn{Conn: b}
	done := make(chan outcome, 1)
	go func() {
		res, err := relay.Relay(a, m, relay.Options{})
		done <- outcome{res, err}
	}()
	io.WriteString(visitor, "up")
	io.ReadFull(upstream, make([]byte, 2))
	io.WriteString(upstream, "down")
	io.ReadFull(visitor, make([]byte, 4))
	visitor.Close()
	upstream.Close()
	if o := <-done; o.err != nil || o.res != (relay.Result{AtoB: 2, BtoA: 4}) {
		t.Errorf("Relay: got %+v, %v, want 2 and 4 bytes", o.res, o.err)
	}
	if r := m.readFrom.Load(); r == nil || *r != io.Reader(a) {
		t.Error("ReadFrom was not given the socket itself")
	}
	if !m.wroteTo.Load() {
		t.Error("WriteTo was not used")
	}
}

// TestSees shows each byte once, before the other side has it, whoever moves
// it; a half-close and a hang-up are noticed as without.
func TestSees(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"sockets":              func(c net.Conn) net.Conn { return c },
		"conn that moves them": func(c net.Conn) net.Conn { return &movingConn{Conn: c} },
		"conn that cannot wait": func(c net.Conn) net.Conn {
			return &otherConn{c}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			visitor, a := pair(t)
			b, upstream := pair(t)
			var mu sync.Mutex
			var fromA, fromB []byte
			ends := 0
			see := func(to *[]byte) func([]byte) {
				return func(p []byte) {
					mu.Lock()
					defer mu.Unlock()
					if len(p) == 0 {
						ends++
					}
					*to = append(*to, p...)
				}
			}
			done := make(chan outcome, 1)
			go func() {
				res, err := relay.Relay(wrap(a), wrap(b), relay.Options{FromA: see(&fromA), FromB: see(&fromB)})
				done <- outcome{res, err}
			}()
			check := func(what string, from, to *net.TCPConn, size int, seen *[]byte) {
				t.Helper()
				p, got := payload(size), make([]byte, size)
				go from.Write(p)
				if _, err := io.ReadFull(to, got); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if !bytes.Equal(got, p) || !bytes.HasSuffix(*seen, p) {
					t.Errorf("%s: got the right bytes %v, saw them %v, want both", what, bytes.Equal(got, p), bytes.HasSuffix(*seen, p))
				}
			}
			check("to upstream", visitor, upstream, 100, &fromA)
			check("to visitor", upstream, visitor, 1<<20, &fromB)
			visitor.CloseWrite()
			if n, err := upstream.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("after half-close: got %d bytes, %v; want the end", n, err)
			}
			check("after half-close", upstream, visitor, 10, &fromB)
			upstream.Close()
			o := <-done
			if o.err != nil || o.res != (relay.Result{AtoB: 100, BtoA: 1<<20 + 10}) || len(fromA) != 100 || len(fromB) != 1<<20+10 || ends != 2 {
				t.Errorf("got %+v, %v, saw %d and %d bytes and %d ends; want each once", o.res, o.err, len(fromA), len(fromB), ends)
			}
		})
	}
}

func BenchmarkBulk(b *testing.B) {
	visitor, upstream, done := start(b, relay.Options{})
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	var wg sync.WaitGroup
	wg.Go(func() {
		io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{upstream})
		upstream.Close()
	})
	for b.Loop() {
		if _, err := visitor.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	visitor.Close()
	wg.Wait()
	<-done
}

func BenchmarkPingPong(b *testing.B) {
	visitor, upstream, done := start(b, relay.Options{})
	b.ReportAllocs()
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 100)
		for {
			if _, err := io.ReadFull(upstream, buf); err != nil {
				break
			}
			upstream.Write(buf)
		}
		upstream.Close()
	})
	buf := make([]byte, 100)
	for b.Loop() {
		visitor.Write(buf)
		if _, err := io.ReadFull(visitor, buf); err != nil {
			b.Fatal(err)
		}
	}
	visitor.Close()
	wg.Wait()
	<-done
}

// Where the end of one conn means that of both directions, the other conn is
// closed, though it could be half-closed.
func TestEndWith(t *testing.T) {
	t.Parallel()
	visitor, a := pair(t)
	b, upstream := pair(t)
	done := make(chan outcome, 1)
	go func() {
		res, err := relay.Relay(a, b, relay.Options{EndWith: a})
		done <- outcome{res, err}
	}()
	visitor.Write([]byte("request"))
	visitor.CloseWrite()
	if got, err := io.ReadAll(upstream); string(got) != "request" || err != nil {
		t.Errorf("upstream read %q, %v", got, err)
	}
	if got, err := io.ReadAll(visitor); len(got) != 0 || err != nil {
		t.Errorf("visitor read %q, %v; want the end", got, err)
	}
	if o := <-done; o.err != nil || o.res.AtoB != 7 {
		t.Errorf("Relay: %+v", o)
	}

	// The other one's end is a half-close as ever.
	visitor, a = pair(t)
	b, upstream = pair(t)
	go func() {
		res, err := relay.Relay(a, b, relay.Options{EndWith: a})
		done <- outcome{res, err}
	}()
	upstream.CloseWrite()
	if _, err := visitor.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("visitor read: %v, want the end", err)
	}
	visitor.Write([]byte("more"))
	visitor.Close()
	if got, err := io.ReadAll(upstream); string(got) != "more" || err != nil {
		t.Errorf("upstream read %q, %v", got, err)
	}
	<-done
}
