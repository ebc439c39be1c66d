// Package backoff spaces attempts at something that keeps failing: each waits
// longer than the one before, by chance, so that many who failed together do
// not try again together.
//
//	b := backoff.Backoff{Min: 100 * time.Millisecond, Max: 30 * time.Second}
//	for {
//		if err := try(); err == nil {
//			b.Reset()
//		}
//		if err := b.Wait(ctx); err != nil {
//			return err
//		}
//	}
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// A Backoff yields waiting times. It is not safe for concurrent use.
type Backoff struct {
	Min time.Duration // shortest wait; 0 means 100 ms
	Max time.Duration // longest wait; 0 means 30 s, less than Min means Min

	limit time.Duration // of the last wait; 0 before the first
}

// Next returns how long to wait before the next attempt: any time between Min
// and a limit with the same chance, where the limit is twice Min at first and
// doubles up to Max.
func (b *Backoff) Next() time.Duration {
	lowest, highest := b.Min, b.Max
	if lowest <= 0 {
		lowest = 100 * time.Millisecond
	}
	if highest == 0 {
		highest = 30 * time.Second
	}
	highest = max(highest, lowest)
	last := max(b.limit, lowest)
	if last > highest/2 { // and the doubling cannot overflow
		b.limit = highest
	} else {
		b.limit = 2 * last
	}
	return lowest + rand.N(b.limit-lowest+1)
}

// Reset makes the next wait a short one again.
func (b *Backoff) Reset() { b.limit = 0 }

// Wait waits for Next, or returns ctx's error when ctx ends.
func (b *Backoff) Wait(ctx context.Context) error {
	timer := time.NewTimer(b.Next())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
