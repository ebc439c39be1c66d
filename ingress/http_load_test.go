package ingress

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"

	"adit/internal/readable"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// A bulkTunnel has streams that move bytes out of and into their own memory.
type bulkTunnel struct{ *tunneltest.Memory }

func (b bulkTunnel) OpenEarly(info tunnel.StreamInfo) (net.Conn, error) {
	c, err := b.Memory.OpenEarly(info)
	return &bulkStream{Conn: c}, err
}

func (b bulkTunnel) OpenStream(ctx context.Context, info tunnel.StreamInfo) (net.Conn, error) {
	c, err := b.Memory.OpenStream(ctx, info)
	return &bulkStream{Conn: c}, err
}

type bulkStream struct{ net.Conn }

func (s *bulkStream) Quiet() bool { return s.Conn.(quiescent).Quiet() }
func (s *bulkStream) Reset(code tunnel.ResetCode, reason string) error {
	return s.Conn.(tunnel.Resetter).Reset(code, reason)
}

func (s *bulkStream) WriteTo(w io.Writer) (n int64, err error) {
	buf := make([]byte, 10000)
	for {
		m, rerr := s.Conn.Read(buf)
		if m > 0 {
			k, err := w.Write(buf[:m])
			if n += int64(k); err != nil {
				return n, err
			}
		}
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

func (s *bulkStream) ReadFrom(r io.Reader) (n int64, err error) {
	buf := make([]byte, 10000)
	for {
		if w, ok := r.(interface{ WaitRead() error }); ok {
			if err := w.WaitRead(); err != nil {
				return n, err
			}
		}
		m, rerr := r.Read(buf)
		if _, err := s.Conn.Write(buf[:m]); err != nil {
			return n, err
		}
		n += int64(m)
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

// TestManyVisitors has many visitors send bodies of all sizes and framings at
// a time, through streams of both kinds.
func TestManyVisitors(t *testing.T) {
	t.Parallel()
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("upstream: %v", err)
		}
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		}
		w.Write(body)
	})
	for _, bulk := range []bool{false, true} {
		m := startUpstream(t, echo)
		var tun tunnel.Tunnel = m
		if bulk {
			tun = bulkTunnel{m}
		}
		_, addr := startHTTP(t, HTTPOptions{Router: always(tun)})
		t.Run(fmt.Sprint("bulk=", bulk), func(t *testing.T) {
			t.Parallel()
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, "tcp", addr)
					}}
					defer tr.CloseIdleConnections()
					hc := &http.Client{Transport: tr, Timeout: patience}
					for k, size := range []int{0, 1, 100, 5000, 9000, 40000, 70000, 300000, 3 << 19} {
						data := bytes.Repeat([]byte{byte('a' + i)}, size)
						var body io.Reader = bytes.NewReader(data)
						if (i+k)%2 == 0 {
							body = io.MultiReader(body) // of unknown length: chunked
						}
						path := "/chunked"
						if (i+k)%3 == 0 {
							path = "/length"
						}
						resp, err := hc.Post("http://web"+path, "", body)
						if err != nil {
							t.Errorf("%d bytes: %v", size, err)
							return
						}
						got, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if err != nil || !bytes.Equal(got, data) {
							t.Errorf("%d bytes: %d came back, %v", size, len(got), err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestBulkCutShort has a long response through WriteTo that breaks off, and a
// visitor that leaves in the middle of a long upload through ReadFrom.
func TestBulkCutShort(t *testing.T) {
	t.Parallel()
	m, l := tunneltest.NewMemory("web")
	defer m.Close()
	_, addr := startHTTP(t, HTTPOptions{Router: always(bulkTunnel{m})})
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	up := acceptStream(t, l)
	readUntil(t, up, "\r\n\r\n")
	fmt.Fprintf(up, "HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
	up.Write(make([]byte, 100000))
	up.Close()
	if resp, err := http.ReadResponse(c.r, nil); err != nil {
		t.Error(err)
	} else if n, err := io.Copy(io.Discard, resp.Body); err == nil || isTimeout(err) {
		t.Errorf("a response cut short: %d bytes, %v; want it to end with an error", n, err)
	}

	c = dial(t, addr)
	c.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 10000000\r\n\r\n")
	up = acceptStream(t, l)
	readUntil(t, up, "\r\n\r\n")
	c.send("abc")
	readUntil(t, up, "abc")
	c.Close()
	if n, err := io.Copy(io.Discard, up); err == nil || isTimeout(err) {
		t.Errorf("an upload cut short: %d bytes, %v; want a reset", n, err)
	}
}

// TestIdleVisitorMemory compares visitors that have had an answer and send
// nothing more with conns that somebody accepted and forgot.
func TestIdleVisitorMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("opens many conns")
	}
	const visitors = 1000
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {})

	base := inUse()
	var held []io.Closer
	for range visitors {
		near := dial(t, l.Addr().String())
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, near, far)
	}
	bare := inUse()
	for range visitors {
		c := dial(t, addr)
		c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
		c.response("GET")
		held = append(held, c)
		if _, ok := readable.Of(c.Conn); !ok {
			t.Skip("sockets cannot be waited for without a buffer here")
		}
	}
	each := (int64(inUse()) - 2*int64(bare) + int64(base)) / visitors
	t.Logf("%d bytes for each idle visitor beside its conn", each)
	// Half of it is the stack, which is larger under the race detector.
	if each > 12<<10 {
		t.Errorf("an idle visitor costs %d bytes beside its conn, want at most 12 KiB", each)
	}
	for _, c := range held {
		c.Close()
	}
}

// inUse is the memory in use after a collection, of the heap and of stacks.
func inUse() uint64 {
	for range 3 { // pools give up what they hold in two rounds
		runtime.GC()
	}
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return ms.HeapAlloc + ms.StackInuse
}
