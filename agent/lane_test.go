package agent

import (
	"context"
	"testing"

	"adit/internal/backoff"
)

// Whoever has been told to stop does not try once more because the time for
// that has come too.
func TestPauseEndsWithContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := &lane{drained: make(chan struct{}, 1)}
	for range 1000 {
		if l.pause(ctx, 0, new(backoff.Backoff)) {
			t.Fatal("pause returned true after the end of ctx")
		}
	}
}
