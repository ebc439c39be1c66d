package main

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"

	"adit/internal/screen"
)

// A boardHandler puts log messages on a board, for a terminal whose screen
// they would tear.
type boardHandler struct {
	board *board
	level slog.Level
	mu    *sync.Mutex   // guards buf
	buf   *bytes.Buffer // what attrs writes
	attrs slog.Handler
}

// shownOtherwise are messages of package agent that repeat what the screen says
// anyway.
var shownOtherwise = map[string]bool{
	"not connected":        true,
	"session not resumed":  true,
	"upstream not reached": true,
}

func newBoardHandler(b *board, level slog.Level) *boardHandler {
	h := &boardHandler{board: b, level: level, mu: new(sync.Mutex), buf: new(bytes.Buffer)}
	h.attrs = slog.NewTextHandler(h.buf, &slog.HandlerOptions{Level: level, ReplaceAttr: withoutHead})
	return h
}

// withoutHead leaves out what is shown in a way of its own.
func withoutHead(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
		return slog.Attr{}
	}
	return a
}

func (h *boardHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *boardHandler) Handle(ctx context.Context, r slog.Record) error {
	if shownOtherwise[r.Message] {
		return nil
	}
	h.mu.Lock()
	h.buf.Reset()
	err := h.attrs.Handle(ctx, r)
	attrs := strings.TrimSpace(h.buf.String())
	h.mu.Unlock()
	if err != nil {
		return err
	}
	h.board.log(screen.Log{Time: r.Time, Level: strings.ToLower(r.Level.String()), Text: strings.TrimSpace(r.Message + " " + attrs)})
	return nil
}

func (h *boardHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	also := *h
	also.attrs = h.attrs.WithAttrs(attrs)
	return &also
}

func (h *boardHandler) WithGroup(name string) slog.Handler {
	also := *h
	also.attrs = h.attrs.WithGroup(name)
	return &also
}
