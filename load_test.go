package adit_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit"
	"adit/adittest"
	"adit/server"
)

// Visitors who come while the server is restarted and connections are cut get
// the right answers, or an error, and never a wrong one.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	l := srv.Listen(t, adit.WithID("web"))
	serve(t, l, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		io.WriteString(w, r.URL.Path+" "+string(b))
	})
	ctx, stop := context.WithCancel(t.Context())
	var good, failed atomic.Int64
	var wg sync.WaitGroup
	body := strings.Repeat("0123456789", 5000)
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				resp, err := srv.Client().Post(l.URL()+"path", "text/plain", strings.NewReader(body))
				if err != nil {
					failed.Add(1)
					continue
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				switch {
				case err != nil || resp.StatusCode >= 500:
					failed.Add(1)
				case resp.StatusCode != 200 || string(b) != "/path "+body:
					t.Errorf("got %d with %d bytes, want 200 with %d", resp.StatusCode, len(b), len(body)+6)
					return
				default:
					good.Add(1)
				}
			}
		})
	}
	// Each step waits for visitors to come through.
	through := func() {
		t.Helper()
		timeout := time.After(patience)
		for want := good.Load() + 20; good.Load() < want; {
			select {
			case <-time.After(time.Millisecond):
			case <-timeout:
				t.Fatalf("%d answers after %v, want %d", good.Load(), patience, want)
			}
		}
	}
	for range 3 {
		through()
		srv.Cut()
		through()
		srv.Restart()
	}
	through()
	stop()
	wg.Wait()
	t.Logf("%d answers, %d failures", good.Load(), failed.Load())
}

// Whatever is cut, and when, each byte arrives once and in its place.
func TestBytesSurviveCuts(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	l := srv.Listen(t, adit.WithID("raw"), adit.WithTCP(0))
	var wg, visitors sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				if _, err := io.Copy(c, c); err != nil {
					t.Errorf("echo: %v", err)
				}
				c.(*adit.Conn).CloseWrite()
			})
		}
	})
	size := 4 << 20
	if testing.Short() {
		size = 1 << 20
	}
	for i := range 4 {
		visitors.Go(func() {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(2 * patience))
			sent := make([]byte, size)
			rand.NewChaCha8([32]byte{byte(i)}).Read(sent)
			visitors.Go(func() {
				for rest := sent; len(rest) > 0; {
					n, err := c.Write(rest[:min(len(rest), 1+rand.IntN(64<<10))])
					if err != nil {
						t.Errorf("write: %v", err)
						return
					}
					rest = rest[n:]
				}
				c.(*net.TCPConn).CloseWrite()
			})
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("visitor %d: %d bytes came back, %v; want the %d that it sent", i, len(got), err, len(sent))
			}
		})
	}
	done := make(chan struct{})
	go func() {
		visitors.Wait()
		close(done)
	}()
	cuts := 0
	for over := false; !over; {
		select {
		case <-done:
			over = true
		case <-time.After(time.Duration(rand.IntN(40)) * time.Millisecond):
			srv.Cut()
			cuts++
		}
	}
	t.Logf("%d cuts", cuts)
	l.Close()
	wg.Wait()
}

// Close and Shutdown from many goroutines at once, while visitors come.
func TestCloseAtOnce(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t, func(o *server.Options) { o.Hold = -1 })
	for range 5 {
		l := srv.Listen(t, adit.WithID("raw"), adit.WithTCP(0))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				c, err := net.Dial("tcp", l.Addr().String())
				if err == nil {
					c.SetDeadline(time.Now().Add(patience))
					io.Copy(io.Discard, c)
					c.Close()
				}
			})
		}
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("Accept: %v, want %v", err, net.ErrClosed)
					}
					return
				}
				c.Close()
			}
		})
		for range 3 {
			wg.Go(func() { l.Close() })
			wg.Go(func() {
				if err := l.Shutdown(briefly(t)); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
			})
		}
		wg.Wait()
		if err := wait(t, l); err != nil {
			t.Errorf("Wait: %v, want nil", err)
		}
	}
}

// A visitor for whom there is no room in the backlog is told so.
func TestBacklog(t *testing.T) {
	t.Parallel()
	srv := adittest.NewServer(t)
	l := srv.Listen(t, adit.WithID("web"), adit.WithBacklog(1))
	codes := make(chan string, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(ctx, "GET", l.URL(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := srv.Client().Do(req)
			if err != nil {
				return // it waited until the end of the test
			}
			resp.Body.Close()
			codes <- resp.Header.Get("Adit-Error")
		})
	}
	for range 2 {
		select {
		case code := <-codes:
			if code != "busy" {
				t.Errorf("Adit-Error: %q, want busy", code)
			}
		case <-time.After(patience):
			t.Fatal("no visitor is refused")
		}
	}
	cancel()
	wg.Wait()
}
