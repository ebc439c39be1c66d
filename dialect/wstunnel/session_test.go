package wstunnel

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pair is a server and a client of ours before a local server.
func pair(t *testing.T, messages bool, h http.HandlerFunc) (s *Server, addr string, stop func()) {
	t.Helper()
	local := startLocal(t, h)
	s, addr = startServer(t, ServerOptions{})
	stop = startClient(t, ClientOptions{Tunnel: "ws://" + addr, Token: testToken, Server: local.URL, Messages: messages})
	waitFor(t, "the client", func() bool {
		tun, ok := s.Tunnel(testToken)
		if !ok {
			return false
		}
		n, _, _, _ := tun.counts()
		return n == 1
	})
	return s, addr, stop
}

func both(t *testing.T, f func(t *testing.T, messages bool)) {
	for _, messages := range []bool{false, true} {
		t.Run(map[bool]string{false: "session", true: "messages"}[messages], func(t *testing.T) {
			t.Parallel()
			f(t, messages)
		})
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, messages bool) {
		s, addr, _ := pair(t, messages, func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			if r.URL.RawQuery == "chunked" {
				w.(http.Flusher).Flush()
			}
			w.Write(b)
		})
		for _, size := range []int{0, 1, smallBody, smallBody + 1, spoolMemory + 1, 3 << 20} {
			body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
			for _, query := range []string{"", "?chunked"} {
				for _, method := range []string{"POST", "PUT"} {
					if code, got := send(t, method, addr, "/"+query, bytes.NewReader(body)); code != 200 || got != string(body) {
						t.Errorf("%s of %d bytes%s: got %d and %d bytes", method, size, query, code, len(got))
					}
					if code, got := send(t, method, addr, "/"+query, io.MultiReader(bytes.NewReader(body))); code != 200 || got != string(body) {
						t.Errorf("%s of %d bytes%s in chunks: got %d and %d bytes", method, size, query, code, len(got))
					}
				}
			}
		}
		tun, _ := s.Tunnel(testToken)
		waitFor(t, "the room to be given back", func() bool { return tun.rooms.bytes.used.Load() == 0 && s.memory.used.Load() == 0 })
	})
}

// A local server that breaks off harms its own caller alone.
func TestAbort(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, messages bool) {
		_, addr, _ := pair(t, messages, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/abort" {
				w.Header().Set("Content-Length", "100")
				w.Write(make([]byte, 10))
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
		})
		if code, text := get(t, addr, "/abort"); code == 200 {
			t.Errorf("broken answer: got %d %q", code, text)
		}
		if code, _ := get(t, addr, "/"); code != 200 {
			t.Errorf("next request: got %d", code)
		}
	})
}

// A caller who goes away ends its request at the local server, over a session.
func TestCallerGone(t *testing.T) {
	t.Parallel()
	came, gone := make(chan struct{}, 2), make(chan struct{}, 2)
	_, addr, _ := pair(t, false, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		came <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	})
	for _, method := range []string{"GET", "POST"} {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+"/_token/"+testToken+"/", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-came
			cancel()
		}()
		if _, err := http.DefaultClient.Do(req); err == nil {
			t.Error("got an answer")
		}
		<-gone
	}
}

// Each part of a stream arrives as it is made, and what follows a 101 passes.
func TestStreamAndUpgrade(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	_, addr, _ := pair(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "echo" {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello ")
			io.Copy(conn, rw)
			return
		}
		for i := range 3 {
			fmt.Fprintf(w, "part %d\n", i)
			w.(http.Flusher).Flush()
			<-next
		}
	})
	resp, err := http.Get("http://" + addr + "/_token/" + testToken + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		if line, err := lines.ReadString('\n'); line != fmt.Sprintf("part %d\n", i) || err != nil {
			t.Errorf("got %q, %v", line, err)
		}
		next <- struct{}{}
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /_token/"+testToken+"/ HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly ")
	br := bufio.NewReader(conn)
	up, err := http.ReadResponse(br, nil)
	if err != nil || up.StatusCode != 101 || up.Header.Get("Upgrade") != "echo" {
		t.Fatalf("got %v, %v", up, err)
	}
	io.WriteString(conn, "late")
	want := "hello early late"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(br, got); string(got) != want || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// A thousand requests on one tunnel at once.
func TestThousand(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, messages bool) {
		const n = 1000
		var inside atomic.Int64
		all := make(chan struct{})
		_, addr, _ := pair(t, messages, func(w http.ResponseWriter, r *http.Request) {
			if inside.Add(1) == n {
				close(all)
			}
			<-all
			io.WriteString(w, r.RequestURI)
		})
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				path := fmt.Sprint("/", i)
				if code, text := get(t, addr, path); code != 200 || text != path {
					t.Errorf("%s: got %d %q", path, code, text)
				}
			})
		}
		wg.Wait()
	})
}

// Neither side writes the token to its log, nor to what callers see.
func TestTokenIsSecret(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var lines strings.Builder
	log := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return lines.Write(p)
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	local := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Token") != "" {
			t.Error("the token reached the local server")
		}
	}))
	s, addr := startServer(t, ServerOptions{Log: log})
	for _, messages := range []bool{false, true} {
		stop := startClient(t, ClientOptions{Tunnel: "ws://" + addr, Token: testToken, Server: local.URL, Messages: messages, Log: log})
		waitFor(t, "an answer", func() bool {
			req, _ := http.NewRequest("GET", "http://"+addr+"/", nil)
			req.Header.Set("X-Token", testToken)
			req.Close = true
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == 200
		})
		stop()
	}
	local.Close()
	tun, _ := s.Tunnel(testToken)
	waitFor(t, "the links' end", func() bool { n, _, _, _ := tun.counts(); return n == 0 })
	mu.Lock()
	defer mu.Unlock()
	if strings.Contains(lines.String(), testToken[:6]) {
		t.Errorf("the log has a part of the token: %s", lines.String())
	}
	if !strings.Contains(lines.String(), "HTTP RCV") || !strings.Contains(lines.String(), "WS   ready") {
		t.Errorf("the log lacks what operators look for: %s", lines.String())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Redirects are followed where the caller could have gone itself.
func TestRedirects(t *testing.T) {
	t.Parallel()
	other := startLocal(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "other") })
	_, addr, _ := pair(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/here":
			http.Redirect(w, r, "/there", http.StatusFound)
		case "/away":
			http.Redirect(w, r, other.URL, http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		default:
			io.WriteString(w, r.URL.Path)
		}
	})
	noFollow := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: 10 * time.Second}
	for _, tt := range []struct {
		path string
		code int
	}{{"/here", 200}, {"/away", 302}, {"/loop", 502}} {
		resp, err := noFollow.Get("http://" + addr + "/_token/" + testToken + tt.path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.code {
			t.Errorf("%s: got %d, want %d", tt.path, resp.StatusCode, tt.code)
		}
	}
	noFollow.CloseIdleConnections()
}

func TestClientOptions(t *testing.T) {
	t.Parallel()
	ok := ClientOptions{Tunnel: "wss://h/base/", Token: testToken, Server: "http://h"}
	if c, err := NewClient(ok); err != nil || c.url.RequestURI() != "/base/_tunnel" {
		t.Errorf("got %v, %v", c, err)
	}
	for name, change := range map[string]func(*ClientOptions){
		"scheme":    func(o *ClientOptions) { o.Tunnel = "http://h" },
		"query":     func(o *ClientOptions) { o.Tunnel = "ws://h?x" },
		"token":     func(o *ClientOptions) { o.Token = "short" },
		"line ends": func(o *ClientOptions) { o.Token += "\r\nX: y" },
		"server":    func(o *ClientOptions) { o.Server = "h:80" },
		"nothing":   func(o *ClientOptions) { o.Server = "" },
	} {
		bad := ok
		change(&bad)
		if _, err := NewClient(bad); err == nil || strings.Contains(err.Error(), testToken) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
