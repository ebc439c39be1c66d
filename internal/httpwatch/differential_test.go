package httpwatch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// watched relays conns to addr, byte for byte through Watchers, and returns
// where it listens. wait returns what they saw once all conns have ended.
func watched(t *testing.T, addr string) (at string, wait func() []Exchange) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var done []Exchange
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				out, err := net.Dial("tcp", addr)
				if err != nil {
					in.Close()
					return
				}
				w := New(func(e Exchange) {
					mu.Lock()
					defer mu.Unlock()
					if e.Done {
						done = append(done, e)
					}
				})
				var both sync.WaitGroup
				both.Go(func() { copyTo(out, in, w.Request) })
				both.Go(func() { copyTo(in, out, w.Response) })
				both.Wait()
				w.Close(nil)
				in.Close()
				out.Close()
			})
		}
	})
	return ln.Addr().String(), func() []Exchange {
		ln.Close()
		wg.Wait()
		return done
	}
}

// copyTo copies in pieces of all sizes.
func copyTo(dst, src net.Conn, see func([]byte)) {
	buf := make([]byte, 4096)
	for {
		n, err := src.Read(buf[:1+rand.IntN(len(buf))])
		see(buf[:n])
		if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
			break
		}
	}
	dst.(*net.TCPConn).CloseWrite()
}

// A site answers in all ways that a handler can, and notes what it did.
type site struct {
	mu   sync.Mutex
	seen []string
}

func (s *site) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	received, _ := io.Copy(io.Discard, r.Body)
	size := int64(len(r.URL.Query().Get("size")) * 1000)
	status, sent := 200, size
	body := bytes.Repeat([]byte("x"), int(size))
	switch r.URL.Path {
	case "/length":
		rw.Header().Set("Content-Length", fmt.Sprint(size))
	case "/chunked":
		rw.Header().Set("Trailer", "X-Sum")
		defer rw.Header().Set("X-Sum", "1")
		for range 3 {
			rw.Write(body)
			http.NewResponseController(rw).Flush()
		}
		sent *= 4
	case "/hints":
		rw.Header().Set("Link", "</a>")
		rw.WriteHeader(103)
	case "/none":
		status, body = 204, nil
	case "/same":
		status, body = 304, nil
	case "/close":
		rw.Header().Set("Connection", "close")
	}
	if status != 200 {
		rw.WriteHeader(status)
		sent = 0
	}
	if r.Method == "HEAD" {
		sent = 0
	}
	rw.Write(body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, fmt.Sprintf("%s %s %d %d/%d", r.Method, r.RequestURI, status, received, sent))
}

// TestAgainstNetHTTP has net/http speak with itself through Watchers: these see
// the requests that its handler has served, with the same numbers.
func TestAgainstNetHTTP(t *testing.T) {
	t.Parallel()
	s := &site{}
	srv := httptest.NewServer(s)
	defer srv.Close()
	addr, wait := watched(t, srv.Listener.Addr().String())

	paths := []string{"/length", "/chunked", "/hints", "/none", "/same", "/close", "/plain"}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			visitor := &http.Client{Transport: tr}
			for range 100 {
				target := "http://" + addr + paths[rand.IntN(len(paths))] + "?size=" + strings.Repeat("s", rand.IntN(20))
				var body io.Reader
				method := []string{"GET", "HEAD", "PUT", "POST"}[rand.IntN(4)]
				if method[0] == 'P' {
					content := make([]byte, rand.IntN(20000))
					body = bytes.NewReader(content)
					if rand.IntN(2) == 0 {
						body = struct{ io.Reader }{body} // chunked, unless it is empty
					}
				}
				req, err := http.NewRequest(method, target, body)
				if err != nil {
					t.Error(err)
					return
				}
				if rand.IntN(3) == 0 {
					req.Header.Set("Expect", "100-continue")
				}
				resp, err := visitor.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	compare(t, s, wait())
}

func compare(t *testing.T, s *site, seen []Exchange) {
	t.Helper()
	var got []string
	for _, e := range seen {
		if e.Broken {
			t.Errorf("broken: %+v", e)
		}
		got = append(got, fmt.Sprintf("%s %s %d %d/%d", e.Method, e.Target, e.Status, e.Received, e.Sent))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(got)
	slices.Sort(s.seen)
	if !slices.Equal(got, s.seen) {
		for i := range min(len(got), len(s.seen)) {
			if got[i] != s.seen[i] {
				t.Errorf("got %s, net/http has served %s", got[i], s.seen[i])
				break
			}
		}
		t.Errorf("got %d requests, net/http has served %d", len(got), len(s.seen))
	}
}

// TestPipelined sends all requests before it reads a response.
func TestPipelined(t *testing.T) {
	t.Parallel()
	s := &site{}
	srv := httptest.NewServer(s)
	defer srv.Close()
	addr, wait := watched(t, srv.Listener.Addr().String())
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var all strings.Builder
	for i, path := range []string{"/length", "/chunked", "/none", "/same", "/plain", "/close"} {
		fmt.Fprintf(&all, "POST %s?size=%s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s",
			path, strings.Repeat("s", i), i*100, strings.Repeat("b", i*100))
	}
	if _, err := io.WriteString(c, all.String()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Fatal(err)
	}
	c.Close()
	seen := wait()
	if len(seen) != 6 {
		t.Errorf("got %d requests, want 6", len(seen))
	}
	compare(t, s, seen)
}

// TestUpgrade switches to another protocol, whose bytes look like HTTP.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		if _, err := io.Copy(c, buf); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}))
	defer srv.Close()
	addr, wait := watched(t, srv.Listener.Addr().String())
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /echo HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("got %v, %v; want 101", resp, err)
	}
	const text = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
	io.WriteString(c, text)
	c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(br); string(b) != text || err != nil {
		t.Errorf("got %q, %v; want %q", b, err, text)
	}
	c.Close()
	seen := wait()
	if len(seen) != 1 || !seen[0].Upgraded || seen[0].Broken || seen[0].Sent != int64(len(text)) || seen[0].Received != int64(len(text)) {
		t.Errorf("got %+v, want one upgrade with %d bytes each way", seen, len(text))
	}
}
