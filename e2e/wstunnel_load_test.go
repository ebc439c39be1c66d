package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// zeros are n bytes of which nobody keeps a copy.
func zeros(n int64) io.Reader { return io.LimitReader(zeroReader{}, n) }

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// A body of 90 MB passes each way in the original's format, in which it has to
// be held as a whole, and over a session, without either end growing by it.
func TestWstunnelLargeBodies(t *testing.T) {
	t.Parallel()
	const size, most = 90 << 20, 80 << 20 // bytes
	h := sha256.New()
	io.Copy(h, zeros(size))
	want := fmt.Sprintf("%x", h.Sum(nil))
	local := serveLocal(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", strconv.Itoa(size))
			io.Copy(w, zeros(size))
			return
		}
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x %v", n, h.Sum(nil), err)
	})
	for _, format := range []string{"", "-original-format"} {
		t.Run("format"+format, func(t *testing.T) {
			t.Parallel()
			srv, addr, client := startWstunnelServer(t)
			args := []string{"-tunnel", "ws://" + addr, "-server", "http://" + local}
			if format != "" {
				args = append(args, format)
			}
			cli := client(args...)
			awaitTunnel(t, addr)
			url := "http://" + addr + "/_token/" + wstunnelToken + "/"
			resp, err := http.Post(url, "application/octet-stream", zeros(size))
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(text) != fmt.Sprintf("%d %s <nil>", size, want) {
				t.Errorf("the local server got %d %s", resp.StatusCode, text)
			}
			if resp, err = http.Get(url); err != nil {
				t.Fatal(err)
			}
			sum := sha256.New()
			n, err := io.Copy(sum, resp.Body)
			resp.Body.Close()
			if fmt.Sprintf("%x", sum.Sum(nil)) != want {
				t.Errorf("got %d bytes, %v", n, err)
			}
			for name, p := range map[string]*process{"server": srv, "client": cli} {
				_, peak := p.memory(t)
				t.Logf("the %s took %d KiB of memory at the most", name, peak>>10)
				if peak > most {
					t.Errorf("the %s took %d KiB of memory, want %d at most", name, peak>>10, most>>10)
				}
			}
		})
	}
}

// Five thousand clients on one server: all of them are there, and the server is
// not large.
func TestWstunnelManyTunnels(t *testing.T) {
	t.Parallel()
	const n, most = 5000, 24 // KiB for each
	srv, addr, _ := startWstunnelServer(t)
	before, _ := srv.memory(t)
	conns := make([]net.Conn, n)
	var wg sync.WaitGroup
	places := make(chan struct{}, 32)
	for i := range conns {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			conns[i] = dialWstunnel(t, addr, fmt.Sprintf("%s-%d", wstunnelToken, i))
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	})
	if t.Failed() {
		return
	}
	after, _ := srv.memory(t)
	each := float64(after-before) / n / 1024
	t.Logf("%d tunnels take %d KiB, %.1f each", n, (after-before)>>10, each)
	if each > most {
		t.Errorf("a tunnel takes %.1f KiB, want %d at most", each, most)
	}
	resp, err := http.Get("http://" + addr + "/_stats")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stats, _ := io.ReadAll(resp.Body)
	if !strings.HasPrefix(string(stats), fmt.Sprintf("tunnels=%d\n", n)) {
		t.Errorf("statistics: %.60q", stats)
	}
	for _, i := range []int{0, n / 2, n - 1} {
		go func() {
			br := bufio.NewReader(conns[i])
			head, _ := br.Peek(2) // of a frame: not masked, and short or with two bytes of length
			size := int(head[1])
			br.Discard(2)
			if size == 126 {
				long := make([]byte, 2)
				io.ReadFull(br, long)
				size = int(long[0])<<8 | int(long[1])
			}
			message := make([]byte, size)
			io.ReadFull(br, message)
			answer := string(message[:4]) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
			conns[i].Write(append([]byte{0x82, 0x80 | byte(len(answer)), 0, 0, 0, 0}, answer...))
		}()
		resp, err := http.Get(fmt.Sprintf("http://%s/_token/%s-%d/", addr, wstunnelToken, i))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(text) != "ok" {
			t.Errorf("tunnel %d: got %d %q", i, resp.StatusCode, text)
		}
	}
}

// dialWstunnel connects as the original's client does.
func dialWstunnel(t *testing.T, addr, token string) net.Conn {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return nil
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "GET /_tunnel HTTP/1.1\r\nHost: h\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\nOrigin: %s\r\n"+
		"Sec-WebSocket-Key: bQSMAhy5mO0m0RWIxV0ofg==\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n", token)
	br := bufio.NewReaderSize(conn, 512)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("handshake: %v %v", resp, err)
	}
	return conn
}

// awaitTunnel waits until wstunnelToken leads to a local server.
func awaitTunnel(t *testing.T, addr string) {
	t.Helper()
	eventually(t, "the tunnel", 20*time.Second, func(ctx context.Context) error {
		req, _ := http.NewRequestWithContext(ctx, http.MethodHead, "http://"+addr+"/_token/"+wstunnelToken+"/", nil)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	})
}

// serveLocal serves h on loopback, and returns its address.
func serveLocal(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}
