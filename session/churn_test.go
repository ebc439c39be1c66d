package session_test

import (
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"adit/session"
)

// TestChurn opens and closes streams as fast as it goes: nothing of them is
// left afterwards.
func TestChurn(t *testing.T) {
	total, workers := 100_000, 50
	if testing.Short() || raceEnabled {
		total = 10_000
	}
	budget := session.NewBudget(64 << 20)
	opts := &session.Options{Budget: budget}
	a, b := tcpPair(t)
	p := newSessions(t, a, b, opts, opts)
	settle(t, "handshake is over", func() bool { return p.dialler.Attached() && p.listener.Attached() })
	goroutines := runtime.NumGoroutine()

	var agent sync.WaitGroup
	agent.Go(func() {
		for {
			st, err := p.dialler.Accept(t.Context())
			if err != nil {
				return
			}
			if st.Meta()[0] == 'r' {
				st.Refuse(3, "as asked")
				continue
			}
			agent.Go(func() {
				defer st.Close()
				b := make([]byte, 8)
				if n, err := io.ReadFull(st, b); err == nil {
					st.Write(b[:n])
				}
			})
		}
	})
	begin := time.Now()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			b := make([]byte, 8)
			for i := range total / workers {
				meta := "echo"
				if i%10 == 9 {
					meta = "refuse"
				}
				st, err := p.listener.Open([]byte(meta))
				if err != nil {
					t.Errorf("worker %d, stream %d: %v", w, i, err)
					return
				}
				st.Write([]byte("12345678"))
				n, err := io.ReadFull(st, b)
				switch {
				case meta == "refuse" && err == nil:
					t.Errorf("worker %d, stream %d: read %d bytes of a stream that was refused", w, i, n)
				case meta == "echo" && (err != nil || string(b) != "12345678"):
					t.Errorf("worker %d, stream %d: echo %q, %v", w, i, b[:n], err)
				}
				switch i % 3 {
				case 0:
					st.Reset(2, "")
				default:
					st.Close()
				}
			}
		})
	}
	wg.Wait()
	if rate := float64(total) / time.Since(begin).Seconds(); rate < 1000 {
		t.Errorf("%.0f streams per second, want 1000", rate)
	}
	waitStreams(t, p.listener, p.dialler)
	settle(t, "nothing is held", func() bool {
		for _, s := range []*session.Session{p.dialler, p.listener} {
			if send, receive := s.Buffered(); send != 0 || receive != 0 {
				return false
			}
		}
		return budget.Used() == 0
	})
	settle(t, "goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines+1 })
	p.dialler.Close()
	agent.Wait()
}
