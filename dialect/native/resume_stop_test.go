package native_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"adit/dialect/native"
)

// An agent that is told to stop while its carrier is lost has nothing to warn of.
func TestStopWhileResuming(t *testing.T) {
	t.Parallel()
	fs := newFakeServer(t, memory, native.Options{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var log bytes.Buffer
	_, s := fs.connect(t, fs.dialer("secret"), native.SessionOptions{
		Logger:    slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
		OnCarrier: func(error, time.Duration) { stop() },
	})
	defer s.Close()
	fs.cut()
	if err := s.Serve(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v, want that it was stopped", err)
	}
	if log.Len() > 0 {
		t.Errorf("got the log %s, want none", &log)
	}
}
