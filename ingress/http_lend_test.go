package ingress

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// An awaitedTunnel has streams that tell when they are about to wait.
type awaitedTunnel struct{ *tunneltest.Memory }

func (a awaitedTunnel) OpenEarly(info tunnel.StreamInfo) (net.Conn, error) {
	c, err := a.Memory.OpenEarly(info)
	return awaited(c), err
}

func (a awaitedTunnel) OpenStream(ctx context.Context, info tunnel.StreamInfo) (net.Conn, error) {
	c, err := a.Memory.OpenStream(ctx, info)
	return awaited(c), err
}

type awaitedStream struct {
	net.Conn
	r *bufio.Reader
}

func awaited(c net.Conn) net.Conn { return &awaitedStream{c, bufio.NewReader(c)} }

func (s *awaitedStream) Read(p []byte) (int, error) { return s.r.Read(p) }
func (s *awaitedStream) Quiet() bool {
	return s.r.Buffered() == 0 && s.Conn.(quiescent).Quiet()
}
func (s *awaitedStream) Reset(code tunnel.ResetCode, reason string) error {
	return s.Conn.(tunnel.Resetter).Reset(code, reason)
}

func (s *awaitedStream) Await(idle func()) {
	if s.r.Buffered() == 0 {
		idle()
		s.r.Peek(1)
	}
}

// TestLentBuffers has visitors wait for all kinds of answers for so long, more
// or less, that their memory is lent to others meanwhile, who write to it.
func TestLentBuffers(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("l", 5000)
	var tries sync.Map // of paths
	upstream := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("%s: body: %v", r.URL.Path, err)
		}
		if got := r.Header.Get("X-Long"); got != r.URL.Path+long {
			t.Errorf("%s: upstream got the field %.60q (%d bytes)", r.URL.Path, got, len(got))
		}
		pause := func() {
			time.Sleep(time.Duration(rand.IntN(int(5 * watchDelay / 2))))
			for _, p := range []*bufferPool{outBuffers, smallBuffers} {
				b := p.get()
				for i := range *b {
					(*b)[i] = 0xee
				}
				p.put(b)
			}
		}
		pause()
		switch kind, _, _ := strings.Cut(r.URL.Path[1:], "/"); kind {
		case "again":
			if _, again := tries.LoadOrStore(r.URL.Path, true); !again {
				panic(http.ErrAbortHandler)
			}
		case "interim":
			w.Header().Set("Link", "</x>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			pause()
		case "events":
			w.Header().Set("Trailer", "X-Sum")
			for range 3 {
				io.WriteString(w, r.URL.Path)
				w.(http.Flusher).Flush()
				pause()
			}
			w.Header().Set("X-Sum", r.URL.Path)
			return
		case "length":
			w.Header().Set("Content-Length", fmt.Sprint(2*len(r.URL.Path)+len(body)+20000))
			io.WriteString(w, r.URL.Path)
			w.(http.Flusher).Flush()
			pause()
			io.WriteString(w, r.URL.Path)
			w.Write(body)
			io.WriteString(w, strings.Repeat("z", 20000))
			return
		}
		w.Header().Set("X-Long", r.URL.Path+long)
		io.WriteString(w, r.URL.Path)
		w.Write(body)
	})
	_, addr := startHTTP(t, HTTPOptions{Router: always(awaitedTunnel{startUpstream(t, upstream)})})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", addr)
			}}
			defer tr.CloseIdleConnections()
			hc := &http.Client{Transport: tr, Timeout: patience}
			for k, kind := range []string{"again", "interim", "events", "length", "plain", "again", "length"} {
				path := fmt.Sprintf("/%s/%d/%d", kind, i, k)
				var data []byte
				method := "GET"
				if (i+k)%2 == 0 && kind != "again" {
					method, data = "POST", bytes.Repeat([]byte{byte('a' + i)}, rand.IntN(100<<10))
				}
				req, _ := http.NewRequest(method, "http://web"+path, bytes.NewReader(data))
				req.Header.Set("X-Long", path+long)
				resp, err := hc.Do(req)
				if err != nil {
					t.Errorf("%s: %v", path, err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				want := path + string(data)
				switch kind {
				case "events":
					want = strings.Repeat(path, 3)
					if sum := resp.Trailer.Get("X-Sum"); sum != path {
						t.Errorf("%s: trailer %q", path, sum)
					}
				case "length":
					want = path + path + string(data) + strings.Repeat("z", 20000)
				default:
					if f := resp.Header.Get("X-Long"); f != path+long {
						t.Errorf("%s: visitor got the field %.60q (%d bytes)", path, f, len(f))
					}
				}
				if err != nil || string(got) != want {
					t.Errorf("%s: got %.80q (%d bytes), %v; want %d bytes", path, got, len(got), err, len(want))
				}
			}
		})
	}
	wg.Wait()
}
