package adit_test

import (
	"context"
	"errors"
	"io"
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
