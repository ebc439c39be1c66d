package carrier_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"adit/carrier"
	"adit/internal/wsconn"
)

// BenchmarkIdleConns reports what an accepted conn costs in memory while a
// goroutine waits for its first byte. Each iteration opens 5,000 of them. The
// other ends of the plain ones are bare descriptors, and cost nothing; those
// under TLS need a tls.Conn each, so their figure is for both ends.
func BenchmarkIdleConns(b *testing.B) {
	b.Run("plain", func(b *testing.B) { benchmarkIdle(b, false) })
	b.Run("tls both ends", func(b *testing.B) { benchmarkIdle(b, true) })
}

func benchmarkIdle(b *testing.B, secure bool) {
	const count = 5000
	for range b.N {
		var wg sync.WaitGroup
		conns := make(chan *wsconn.Conn, count)
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := carrier.Accept(w, r, carrier.AcceptOptions{})
			if err != nil {
				b.Error(err)
				return
			}
			conns <- c
			wg.Go(func() { c.WaitRead() })
		}))
		if secure {
			srv.StartTLS()
		} else {
			srv.Start()
		}
		peers := make([]func(), 0, count)
		before := inUse()
		for range count {
			hang, err := idlePeer(srv.Listener.Addr().(*net.TCPAddr), secure)
			if err != nil {
				b.Fatal(err)
			}
			peers = append(peers, hang)
		}
		for len(conns) < count {
			runtime.Gosched()
		}
		b.ReportMetric(float64(inUse()-before)/count, "B/conn")
		for range count {
			(<-conns).Close()
		}
		for _, hang := range peers {
			hang()
		}
		wg.Wait()
		srv.Close()
	}
}

// inUse returns the memory in use, in bytes.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// idlePeer asks addr for a WebSocket, and returns what ends it.
func idlePeer(addr *net.TCPAddr, secure bool) (hang func(), err error) {
	if secure {
		c, err := tls.Dial("tcp", addr.String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return nil, err
		}
		return func() { c.Close() }, askBare(c)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}); err != nil {
		return nil, err
	}
	return func() { unix.Close(fd) }, askBare(descriptor(fd))
}

// askBare sends a request for a WebSocket and reads the whole answer.
func askBare(c io.ReadWriter) error {
	if _, err := io.WriteString(c, goodRequest+"\r\n"); err != nil {
		return err
	}
	var buf [1024]byte
	_, err := c.Read(buf[:]) // it comes in one piece
	return err
}

// A descriptor is a blocking socket without anything of package net around it.
type descriptor int

func (d descriptor) Read(p []byte) (int, error)  { return unix.Read(int(d), p) }
func (d descriptor) Write(p []byte) (int, error) { return unix.Write(int(d), p) }
