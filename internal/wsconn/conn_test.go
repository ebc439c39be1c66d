package wsconn

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"testing/iotest"
	"time"
	"unsafe"

	"golang.org/x/net/nettest"
)

// The suite goes on with a conn after a write on it timed out, which a Conn
// allows only if nothing of the message was written. On a Unix socket that is
// so, because it takes the suite's small messages whole or not at all.
func TestNettest(t *testing.T) {
	t.Parallel()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := newPair(t, "unix")
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

// sizes are those around which the header's form or a buffer changes.
var sizes = []int{1, 2, 125, 126, 127, 4081, 4082, 65535, 65536, 270000, 1 << 20}

func content(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(p)
	return p
}

func TestWriteRead(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, from, to *Conn) {
		var want []byte
		for _, n := range sizes {
			want = append(want, content(n)...)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			defer from.Close()
			for _, n := range sizes {
				p := content(n)
				keep := bytes.Clone(p)
				if got, err := from.Write(p); got != n || err != nil {
					t.Errorf("Write of %d bytes = %d, %v", n, got, err)
				}
				if !bytes.Equal(p, keep) {
					t.Errorf("Write of %d bytes modified them", n)
				}
			}
		})
		got, err := io.ReadAll(to)
		wg.Wait()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, %v; want the %d written", len(got), err, len(want))
		}
	})
}

func TestTryWriteMessage(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, from, to *Conn) {
		const count = 40
		var want []byte
		for i := range count {
			want = append(want, content(sizes[i%len(sizes)])...)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			defer from.Close()
			for i := range count {
				p := content(sizes[i%len(sizes)])
				off := from.Headroom() + i%3
				buf := append(make([]byte, off), p...)
				done, err := from.TryWriteMessage(buf, off)
				if err == nil && !done {
					if from.raw != nil && i == 0 {
						t.Error("TryWriteMessage on an idle socket = false, want true")
					}
					if _, err := from.TryWriteMessage(buf, off); err != errPending {
						t.Errorf("TryWriteMessage before FlushMessage: %v, want %v", err, errPending)
					}
					err = from.FlushMessage()
				}
				if err != nil {
					t.Error(err)
				}
				if !bytes.Equal(buf[off:], p) {
					t.Errorf("sending %d bytes modified them", len(p))
				}
				if buf := buf[:off]; !bytes.Equal(buf[:off-from.Headroom()], make([]byte, off-from.Headroom())) {
					t.Error("bytes before the headroom were modified")
				}
			}
		})
		got, err := io.ReadAll(to)
		wg.Wait()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, %v; want the %d written", len(got), err, len(want))
		}
	})
}

// A reader that stops must not block TryWriteMessage, and FlushMessage goes on
// where a deadline stopped it.
func TestTryWriteMessageFullSocket(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"tcp", "unix"} {
		for _, role := range []Role{Server, Client} {
			t.Run(way, func(t *testing.T) {
				t.Parallel()
				from, to := newPair(t, way)
				if role == Server {
					from, to = to, from
				}
				payload := content(300 << 10)
				buf := append(make([]byte, 14), payload...)
				count := 1
				for {
					done, err := from.TryWriteMessage(buf, 14)
					if err != nil {
						t.Fatal(err)
					}
					if !done {
						break
					}
					if count++; count > 1000 {
						t.Fatal("the socket took 300 MB that nobody read")
					}
				}
				for range 3 {
					from.SetWriteDeadline(time.Now().Add(time.Millisecond))
					if err := from.FlushMessage(); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatalf("FlushMessage = %v, want a timeout", err)
					}
				}
				from.SetWriteDeadline(time.Time{})
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := from.FlushMessage(); err != nil {
						t.Error(err)
					}
				})
				got := make([]byte, len(payload))
				for i := range count {
					if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, payload) {
						t.Fatalf("message %d arrived damaged (%v)", i, err)
					}
				}
				wg.Wait()
			})
		}
	}
}

func TestWriteDeadline(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"tcp", "pipe"} {
		t.Run(way+"/before the message", func(t *testing.T) {
			t.Parallel()
			from, to := newPair(t, way)
			from.SetWriteDeadline(time.Unix(1, 0))
			if n, err := from.Write(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("Write = %d, %v; want 0 and a timeout", n, err)
			}
			from.SetWriteDeadline(time.Time{})
			go from.Write([]byte("fine"))
			buf := make([]byte, 100)
			if n, err := to.Read(buf); err != nil || string(buf[:n]) != "fine" {
				t.Errorf("Read = %q, %v; want fine", buf[:n], err)
			}
		})
	}
	t.Run("within the message", func(t *testing.T) {
		t.Parallel()
		from, to := newPair(t, "tcp")
		go func() {
			to.Read(make([]byte, 1))
			from.SetWriteDeadline(time.Unix(1, 0))
		}()
		p := make([]byte, 64<<20)
		n, err := from.Write(p)
		if n == 0 || n == len(p) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Write = %d, %v; want some bytes and a timeout", n, err)
		}
		from.SetWriteDeadline(time.Time{})
		if _, err := from.Write([]byte("x")); err != errCut {
			t.Errorf("Write after that = %v, want %v", err, errCut)
		}
		if _, err := from.TryWriteMessage(make([]byte, 15), 14); err != errCut {
			t.Errorf("TryWriteMessage after that = %v, want %v", err, errCut)
		}
	})
}

func TestWaitRead(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, from, to *Conn) {
		to.SetReadDeadline(time.Unix(1, 0))
		if err := to.WaitRead(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("WaitRead after the deadline = %v, want a timeout", err)
		}
		to.SetReadDeadline(time.Time{})
		var wg sync.WaitGroup
		defer wg.Wait()
		want := content(100000)
		wg.Go(func() {
			from.Write(want[:10])
			from.Write(want[10:])
			from.Close()
		})
		var got []byte
		buf := make([]byte, 5000)
		for i := 0; ; i++ {
			for range i % 3 { // it may be called again before Read
				if err := to.WaitRead(); err != nil && err != io.EOF {
					t.Fatal(err)
				}
			}
			p := buf
			if i%2 == 1 {
				p = buf[:5]
			}
			n, err := to.Read(p)
			got = append(got, p[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, want the %d written", len(got), len(want))
		}
		if err := to.WaitRead(); err != io.EOF {
			t.Errorf("WaitRead after the end = %v, want EOF", err)
		}
	})
}

func TestCloseUnblocks(t *testing.T) {
	t.Parallel()
	for way := range pipes {
		for name, call := range map[string]func(c *Conn) error{
			"Read":     func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err },
			"WaitRead": func(c *Conn) error { return c.WaitRead() },
			"Write":    func(c *Conn) error { _, err := c.Write(make([]byte, 64<<20)); return err },
			"FlushMessage": func(c *Conn) error {
				_, err := c.TryWriteMessage(make([]byte, 64<<20), 14)
				if err == nil {
					err = c.FlushMessage()
				}
				return err
			},
		} {
			t.Run(way+"/"+name, func(t *testing.T) {
				t.Parallel()
				c, _ := newPair(t, way)
				result := make(chan error, 1)
				go func() { result <- call(c) }()
				if name == "Write" || name == "FlushMessage" {
					for c.wmu.TryLock() { // until the call holds it
						c.wmu.Unlock()
					}
				}
				start := time.Now()
				if err := c.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				if err := <-result; err == nil || err == io.EOF {
					t.Errorf("%s after Close = %v, want an error", name, err)
				}
				if d := time.Since(start); d > 2*time.Second {
					t.Errorf("Close and %s took %v", name, d)
				}
				if err := c.Close(); err != nil {
					t.Errorf("second Close: %v", err)
				}
				if _, err := c.TryWriteMessage(make([]byte, 15), 14); err == nil {
					t.Error("TryWriteMessage after Close succeeded")
				}
			})
		}
	}
}

// Close must be brief though the other end reads nothing.
func TestCloseFullSocket(t *testing.T) {
	t.Parallel()
	for way := range pipes {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			c, _ := newPair(t, way)
			c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
			for range 100 {
				if _, err := c.Write(make([]byte, 1<<20)); err != nil {
					break
				}
			}
			start := time.Now()
			c.Close()
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("Close took %v", d)
			}
		})
	}
}

func TestEnd(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		sent []byte
		want error
	}{
		{"between messages", []byte{0x82, 1, 'x'}, io.EOF},
		{"within a header", []byte{0x82}, io.ErrUnexpectedEOF},
		{"within a frame", []byte{0x82, 2, 'x'}, io.ErrUnexpectedEOF},
		{"between fragments", []byte{0x02, 1, 'x'}, io.ErrUnexpectedEOF},
		{"within a control frame", []byte{0x82, 1, 'x', 0x89, 2, 'y'}, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, b := pipes["tcp"](t)
			c := New(a, Client, Options{})
			b.Write(tt.sent)
			b.Close()
			if _, err := io.Copy(io.Discard, iotest.OneByteReader(c)); err != tt.want && (err != nil || tt.want != io.EOF) {
				t.Errorf("Read = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestBuffered(t *testing.T) {
	t.Parallel()
	sent := []byte{0x82, 3, 'o', 'n', 'e', 0x82, 3, 't', 'w', 'o', 0x82, 5, 't', 'h', 'r', 'e', 'e'}
	for split := range len(sent) + 1 {
		a, b := pipes["tcp"](t)
		head := bytes.Clone(sent[:split])
		c := New(a, Client, Options{Buffered: head})
		b.Write(sent[split:])
		b.Close()
		got, err := io.ReadAll(iotest.HalfReader(c))
		if string(got) != "onetwothree" || err != nil {
			t.Errorf("with %d bytes buffered: got %q, %v", split, got, err)
		}
		if c.buffered != nil {
			t.Errorf("with %d bytes buffered: the slice is kept", split)
		}
		if !bytes.Equal(head, sent[:split]) {
			t.Errorf("with %d bytes buffered: they were modified", split)
		}
	}
}

func TestConnSize(t *testing.T) {
	t.Parallel()
	if got, want := unsafe.Sizeof(Conn{}), uintptr(250); got > want {
		t.Errorf("a Conn has %d bytes, want at most %d", got, want)
	}
	t.Logf("Conn %d bytes, rawConn %d bytes", unsafe.Sizeof(Conn{}), unsafe.Sizeof(rawConn{}))
}

func TestConcurrentClose(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, from, to *Conn) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { io.Copy(io.Discard, to) })
			wg.Go(func() { to.WaitRead() })
			wg.Go(func() {
				for {
					if _, err := from.Write([]byte("hello")); err != nil {
						return
					}
				}
			})
		}
		p := make([]byte, 5)
		to.Read(p)
		wg.Go(func() { to.Close() })
		wg.Go(func() { from.Close() })
		wg.Go(func() { from.Close() })
		wg.Wait()
	})
}
