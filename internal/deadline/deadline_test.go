package deadline_test

import (
	"errors"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"adit/internal/deadline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		cond := sync.NewCond(&mu)
		var d deadline.Deadline
		woken := make(chan error, 1)
		wait := func() {
			mu.Lock()
			defer mu.Unlock()
			cond.Wait()
			woken <- d.Err()
		}
		set := func(in time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			d.Set(time.Now().Add(in), cond)
		}

		go wait()
		synctest.Wait()
		set(time.Second)
		set(3 * time.Second) // the first one counts no more
		time.Sleep(2 * time.Second)
		select {
		case err := <-woken:
			t.Fatalf("woken with %v before the deadline", err)
		default:
		}
		time.Sleep(2 * time.Second)
		if err := <-woken; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the deadline: got %v, want %v", err, os.ErrDeadlineExceeded)
		}

		go wait()
		synctest.Wait()
		set(-time.Second)
		if err := <-woken; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a deadline in the past: got %v, want %v", err, os.ErrDeadlineExceeded)
		}

		mu.Lock()
		d.Set(time.Time{}, cond)
		if err := d.Err(); err != nil {
			t.Errorf("without a deadline: got %v, want none", err)
		}
		d.Set(time.Now().Add(time.Second), cond)
		d.Stop()
		mu.Unlock()
		time.Sleep(2 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if err := d.Err(); err != nil {
			t.Errorf("after Stop: got %v, want none", err)
		}
	})
}
