package websocktunnel_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/dialect/websocktunnel"
	"adit/tunnel"
)

// An HTTP server on the listener survives the loss of its session.
func TestServeAcrossSessions(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprint("plain ", plain), func(t *testing.T) {
			t.Parallel()
			fs := newFakeServer(t, false, websocktunnel.Options{})
			opts := fs.options()
			opts.Plain = plain
			connected := make(chan string, 10)
			opts.OnConnect = func(url string) { connected <- url }
			l := listen(t, opts)
			srv := &http.Server{
				Handler:  http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }),
				ErrorLog: log.New(io.Discard, "", 0),
			}
			var wg sync.WaitGroup
			wg.Go(func() { srv.Serve(l) })
			defer wg.Wait()
			defer srv.Close()
			for range 3 {
				if url := <-connected; url != "http://example.com/demo" || l.URL() != url || l.Addr().String() != url {
					t.Errorf("public address %q, %q; want http://example.com/demo", url, l.URL())
				}
				tun := fs.next(t)
				c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return tun.OpenStream(ctx, tunnel.StreamInfo{})
				}}}
				resp, err := c.Get("http://x/")
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(body) != "hello" {
					t.Errorf("got %q", body)
				}
				tun.Close()
			}
		})
	}
}

// Accept says once that the session is gone, in a way that is temporary.
func TestReconnecting(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{})
	l := listen(t, fs.options())
	accepted := make(chan error)
	go func() {
		for {
			c, err := l.Accept()
			if err == nil {
				c.Close()
			}
			accepted <- err
			if errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}()
	for range 2 {
		fs.next(t).Close()
		err := <-accepted
		ne, ok := errors.AsType[interface {
			error
			Temporary() bool
		}](err)
		if !errors.Is(err, websocktunnel.ErrReconnecting) || !ok || !ne.Temporary() || err.Error() != "client reconnecting" {
			t.Errorf("Accept: %v, want %v", err, websocktunnel.ErrReconnecting)
		}
	}
	tun := fs.next(t)
	if c, err := tun.OpenStream(t.Context(), tunnel.StreamInfo{}); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if err := <-accepted; err != nil {
		t.Errorf("Accept: %v", err)
	}
	l.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept of a closed listener: %v", err)
	}
	select {
	case <-tun.Done():
	case <-time.After(patience):
		t.Error("the session outlives the listener")
	}
	if n := len(fs.tunnels); n != 0 {
		t.Errorf("registered %d times after Close", n)
	}
}

// Accept says so too if there is a session again before anybody has noticed.
func TestReconnectedMeanwhile(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{})
	opts := fs.options()
	connected := make(chan string, 10)
	opts.OnConnect = func(url string) { connected <- url }
	l := listen(t, opts)
	for range 2 {
		<-connected
		fs.next(t).Close()
	}
	<-connected
	errs := make(chan error)
	go func() {
		for range 2 {
			_, err := l.Accept()
			errs <- err
		}
	}()
	select {
	case err := <-errs:
		if !errors.Is(err, websocktunnel.ErrReconnecting) {
			t.Errorf("Accept after two lost sessions: %v, want %v", err, websocktunnel.ErrReconnecting)
		}
	case <-time.After(patience):
		t.Error("Accept says nothing of two lost sessions")
		l.Close()
		<-errs
	}
	l.Close()
	if err := <-errs; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the next Accept: %v, want %v", err, net.ErrClosed)
	}
}

// Two agents with one id at a server that does not tell them so take it from
// each other, but less and less often.
func TestTakingTurns(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{})
	opts := fs.options()
	opts.Retry.Initial = 20 * time.Millisecond
	listen(t, opts)
	fs.next(t).Close()
	fs.next(t).Close() // at once, as after any loss
	began := time.Now()
	for range 4 {
		fs.next(t).Close()
	}
	if took := time.Since(began); took < 4*opts.Retry.Initial {
		t.Errorf("registered 4 times within %v, want pauses of %v and more", took, opts.Retry.Initial)
	}
}

// answers has a server that answers each attempt with the next status, and the
// last one again and again.
func answers(t *testing.T, statuses ...int) (url string, attempts *atomic.Int32) {
	t.Helper()
	attempts = new(atomic.Int32)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(attempts.Add(1))
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(statuses[min(n, len(statuses))-1])
	}))
	t.Cleanup(srv.Close)
	return srv.URL, attempts
}

func TestRetry(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		statuses []int
		want     error
		attempts int32
	}{
		{"401", []int{401}, websocktunnel.ErrAuthFailed, 1},
		{"401 later", []int{503, 401}, websocktunnel.ErrRetryFailed, 2},
		{"400", []int{400}, websocktunnel.ErrRetryFailed, 1},
		{"404", []int{404}, websocktunnel.ErrRetryFailed, 1},
		{"200", []int{200}, websocktunnel.ErrRetryFailed, 1},
		{"redirects are not followed", []int{302, 307, 404}, websocktunnel.ErrRetryFailed, 3},
		{"500 for a while", []int{500, 502, 503, 504, 401}, websocktunnel.ErrRetryFailed, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server, attempts := answers(t, tt.statuses...)
			_, err := websocktunnel.Listen(t.Context(), websocktunnel.ListenOptions{
				Configure: func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
					return websocktunnel.Config{ID: "demo", Server: server, Token: "very.secret.token"}, nil
				},
				Retry: websocktunnel.Retry{Initial: time.Millisecond, Max: 5 * time.Millisecond},
			})
			if !errors.Is(err, tt.want) || attempts.Load() != tt.attempts {
				t.Errorf("got %v after %d attempts, want %v after %d", err, attempts.Load(), tt.want, tt.attempts)
			}
			if strings.Contains(err.Error(), "very.secret") {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
	t.Run("time out", func(t *testing.T) {
		t.Parallel()
		server, attempts := answers(t, 503)
		_, err := websocktunnel.Listen(t.Context(), websocktunnel.ListenOptions{
			Configure: func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
				return websocktunnel.Config{ID: "demo", Server: server, Token: "t"}, nil
			},
			Retry: websocktunnel.Retry{Initial: time.Millisecond, Max: 20 * time.Millisecond, Total: 500 * time.Millisecond},
		})
		if !errors.Is(err, websocktunnel.ErrRetryTimedOut) || attempts.Load() < 3 {
			t.Errorf("got %v after %d attempts, want %v after some", err, attempts.Load(), websocktunnel.ErrRetryTimedOut)
		}
	})
	t.Run("malformed address", func(t *testing.T) {
		t.Parallel()
		for _, server := range []string{"", "tunnel.example.com", "ftp://x", "HTTP//x", "http://user:hunter2@x", "http://"} {
			_, err := websocktunnel.Listen(t.Context(), websocktunnel.ListenOptions{
				Configure: func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
					return websocktunnel.Config{ID: "demo", Server: server, Token: "t"}, nil
				},
			})
			if err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("server %q: got %v, want an error without what is secret", server, err)
			}
		}
	})
	t.Run("ends with its context", func(t *testing.T) {
		t.Parallel()
		server, attempts := answers(t, 503)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for attempts.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		_, err := websocktunnel.Listen(ctx, websocktunnel.ListenOptions{
			Configure: func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
				return websocktunnel.Config{ID: "demo", Server: server, Token: "t"}, nil
			},
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
}

// If no other session is to be had, Accept says so for ever.
func TestRoundFails(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{})
	opts := fs.options()
	first := true
	opts.Configure = func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
		token := "wrong"
		if first {
			token = "good"
		}
		first = false
		return websocktunnel.Config{ID: "demo", Server: fs.URL, Token: token}, nil
	}
	l := listen(t, opts)
	fs.next(t).Close()
	for {
		_, err := l.Accept()
		if errors.Is(err, websocktunnel.ErrReconnecting) {
			continue
		}
		if !errors.Is(err, websocktunnel.ErrAuthFailed) {
			t.Errorf("Accept: %v, want %v", err, websocktunnel.ErrAuthFailed)
		}
		if _, again := l.Accept(); again != err {
			t.Errorf("Accept again: %v, want the same", again)
		}
		break
	}
}

// An agent whose ID another one has taken stands by, and serves again when that
// is gone.
func TestStandby(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, false, websocktunnel.Options{})
	old := listen(t, fs.options())
	first := fs.next(t)
	young := listen(t, fs.options())
	second := fs.next(t)
	first.(tunnel.Ender).End(tunnel.EndSuperseded, "")
	for { // Accept would wait for the session
		if _, err := old.Accept(); errors.Is(err, websocktunnel.ErrReconnecting) {
			break
		}
	}
	if err := <-fs.errs; !strings.Contains(err.Error(), "standby") {
		t.Errorf("the server says %v, want that it stands by", err)
	}
	select {
	case <-second.Done():
		t.Fatal("the older agent has taken over")
	default:
	}
	young.Close()
	third := fs.next(t)
	if third.ID() != "demo" {
		t.Errorf("ID %q", third.ID())
	}
}

// A server that does not tell how much it takes in is asked for its version.
func TestAskForWindow(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]int64{
		`{"version": "v93.1.5"}`: 4 << 20, `{"version":"106.0.0","source":"x"}`: 4 << 20, `{"version": "93.1.4"}`: 4096,
		`{"version": "44.6.0"}`: 4096, `{"version": "93.1"}`: 4096, `{"version": 106}`: 4096, `{}`: 4096, `x`: 4096, ``: 4096,
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			fs := newFakeServer(t, false, websocktunnel.Options{})
			asked := make(chan struct{})
			handler := fs.Config.Handler
			fs.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/__version__" {
					io.WriteString(w, version)
					close(asked)
					return
				}
				handler.ServeHTTP(w, r)
			})
			opts := fs.options()
			opts.Plain = true
			l := listen(t, opts)
			tun := fs.next(t)
			<-asked
			got := make(chan int64, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				for sent := int64(0); ; {
					size, wait := min(8192, want-sent), 20*time.Second
					if size <= 0 { // no more should go
						size, wait = 8192, 200*time.Millisecond
					}
					c.SetWriteDeadline(time.Now().Add(wait))
					n, err := c.Write(make([]byte, size))
					sent += int64(n)
					if err != nil {
						got <- sent
						return
					}
				}
			}()
			c, err := tun.OpenStream(t.Context(), tunnel.StreamInfo{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if n := <-got; n != want {
				t.Errorf("%d bytes sent without credit, want %d", n, want)
			}
		})
	}
}

// The way out may lead through a proxy.
func TestProxy(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		fs := newFakeServer(t, secure, websocktunnel.Options{})
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		requests := make(chan *http.Request, 2)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer conn.Close()
					r, err := http.ReadRequest(bufio.NewReader(conn))
					if err != nil {
						return
					}
					requests <- r
					if r.Header.Get("Proxy-Authorization") == "" {
						io.WriteString(conn, "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n")
						return
					}
					far, err := net.Dial("tcp", r.Host)
					if err != nil {
						return
					}
					defer far.Close()
					io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
					go func() {
						io.Copy(far, conn)
						far.Close()
					}()
					io.Copy(conn, far)
				})
			}
		})
		opts := fs.options()
		opts.Retry.Total = time.Millisecond
		opts.Proxy = func(*url.URL) (*url.URL, error) { return url.Parse("http://" + ln.Addr().String()) }
		if _, err := websocktunnel.Listen(t.Context(), opts); err == nil {
			t.Error("a proxy that refuses: got no error")
		}
		<-requests
		opts.Proxy = func(*url.URL) (*url.URL, error) { return url.Parse("http://me:hunter2@" + ln.Addr().String()) }
		l := listen(t, opts)
		fs.next(t)
		r := <-requests
		if r.Header.Get("Proxy-Authorization") == "" { // the password is shown only to who asks for it
			r = <-requests
		}
		if r.Method != "CONNECT" || r.Host != fs.Listener.Addr().String() || r.Header.Get("Proxy-Authorization") != "Basic bWU6aHVudGVyMg==" {
			t.Errorf("the proxy was asked %s %s, %v", r.Method, r.Host, r.Header)
		}
		l.Close()
		ln.Close()
		wg.Wait()
	}
}
