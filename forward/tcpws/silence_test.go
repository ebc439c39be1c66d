package tcpws

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"adit/internal/wsframe"
)

// A tcpEnd is a conn in memory that ends one way when it is told.
type tcpEnd struct {
	net.Conn
	end chan struct{}
}

func (c tcpEnd) Read([]byte) (int, error) {
	<-c.end
	return 0, io.EOF
}
func (c tcpEnd) CloseWrite() error               { return nil }
func (c tcpEnd) SetReadDeadline(time.Time) error { return nil }

// runLink runs a link in memory, whose TCP connection is silent until end is
// closed.
func runLink(client bool) (ws net.Conn, end chan struct{}, done chan error) {
	ws, wsB := net.Pipe()
	_, tcp := net.Pipe()
	end, done = make(chan struct{}), make(chan error, 1)
	l := newLink(wsB, tcpEnd{tcp, end})
	l.client = client
	go func() { done <- l.run() }()
	return ws, end, done
}

// A client sends an empty message after 10 s of its caller's silence, and again
// every 10 s, as the original does.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ws, tcp := net.Pipe()
		caller, tcpB := net.Pipe()
		l := newLink(tcp, tcpB)
		l.client = true
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run()
		}()
		began := time.Now()
		next := func(what string, size int, want time.Duration) {
			t.Helper()
			b := make([]byte, 64)
			n, err := ws.Read(b)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			h, _, err := wsframe.Parse(b[:n])
			if err != nil || h.Op != wsframe.Binary || !h.Fin || h.Size != int64(size) {
				t.Errorf("%s: got %x, want a binary message of %d bytes", what, b[:n], size)
			}
			if at := time.Since(began); at != want {
				t.Errorf("%s: it came after %v, want %v", what, at, want)
			}
		}
		next("the first", 0, 10*time.Second)
		next("the second", 0, 20*time.Second)
		time.Sleep(3 * time.Second)
		go caller.Write([]byte("data"))
		next("data", 4, 23*time.Second)
		next("the third", 0, 33*time.Second)
		ws.Close()
		caller.Close()
		<-done
	})
}

// A server sends nothing by itself.
func TestServerIsSilent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ws, end, done := runLink(false)
		ws.SetReadDeadline(time.Now().Add(time.Hour))
		if n, err := ws.Read(make([]byte, 1)); n > 0 {
			t.Errorf("got %d bytes, %v", n, err)
		}
		ws.Close()
		close(end)
		<-done
	})
}

// An original that still takes in what came before our end sends an empty message
// now and then: if it were cut off meanwhile, what is on its way would be lost.
// One that is silent is given up.
func TestOriginalIsSlowToEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ws, end, done := runLink(false)
		close(end)
		var got [2]byte
		if _, err := io.ReadFull(ws, got[:]); err != nil || got != [2]byte{0x88, 0} {
			t.Fatalf("got %x, %v, want a close frame", got, err)
		}
		for range 30 {
			time.Sleep(10 * time.Second)
			if _, err := io.WriteString(ws, "\x82\x80\x00\x00\x00\x00"); err != nil {
				t.Fatalf("it was cut off: %v", err)
			}
		}
		silent := time.Now()
		if err := <-done; err != nil {
			t.Errorf("got %v, want none", err)
		}
		if dur := time.Since(silent); dur != lingerTime {
			t.Errorf("it was given up after %v of silence, want %v", dur, lingerTime)
		}
	})
}
