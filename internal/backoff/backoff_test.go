package backoff_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"adit/internal/backoff"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNext(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		b      backoff.Backoff
		lowest time.Duration
		limits []time.Duration // of the waits, one after the other
	}{
		{"grows", backoff.Backoff{Min: time.Second, Max: 10 * time.Second}, time.Second,
			[]time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second}},
		{"defaults", backoff.Backoff{}, 100 * time.Millisecond,
			[]time.Duration{200 * time.Millisecond, 400 * time.Millisecond}},
		{"max below min", backoff.Backoff{Min: time.Minute, Max: time.Second}, time.Minute,
			[]time.Duration{time.Minute, time.Minute}},
		{"no overflow", backoff.Backoff{Min: math.MaxInt64 / 2, Max: math.MaxInt64 - 1}, math.MaxInt64 / 2,
			[]time.Duration{math.MaxInt64 - 1, math.MaxInt64 - 1, math.MaxInt64 - 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for range 100 {
				for i, limit := range tt.limits {
					if d := tt.b.Next(); d < tt.lowest || d > limit {
						t.Fatalf("wait %d: got %v, want %v to %v", i+1, d, tt.lowest, limit)
					}
				}
				tt.b.Reset()
			}
		})
	}
}

func TestSpreads(t *testing.T) {
	t.Parallel()
	seen := map[time.Duration]bool{}
	for range 100 {
		b := backoff.Backoff{Min: time.Second, Max: time.Minute}
		seen[b.Next()] = true
	}
	if len(seen) < 90 {
		t.Errorf("100 who failed together wait %d different times, want nearly 100", len(seen))
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := backoff.Backoff{Min: time.Second, Max: time.Second}
		begin := time.Now()
		if err := b.Wait(t.Context()); err != nil {
			t.Errorf("Wait: %v", err)
		}
		if d := time.Since(begin); d != time.Second {
			t.Errorf("waited %v, want 1s", d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begin = time.Now()
		if err := b.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Wait: got error %v, want %v", err, context.Canceled)
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("waited %v after the end, want 0", d)
		}
	})
}
