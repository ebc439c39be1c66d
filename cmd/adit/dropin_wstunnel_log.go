package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// levelCrit is that of the last line of a wstunnel that cannot start.
const levelCrit = slog.LevelError + 8

// A wstunnelStyle begins a line of the original's log.
type wstunnelStyle func(b []byte, at time.Time, level slog.Level, msg string) []byte

// logfmtStyle is that of standard output.
func logfmtStyle(b []byte, at time.Time, level slog.Level, msg string) []byte {
	b = append(b, "t="...)
	b = appendSecond(b, at)
	b = append(b, " lvl="...)
	b = append(b, wstunnelLevel(level)...)
	b = append(b, " msg="...)
	return appendLogValue(b, msg)
}

// A second is the text of one.
type second struct {
	unix int64
	text string
}

var lastSecond atomic.Pointer[second]

// appendSecond appends a time, whose text is mostly that of the line before.
func appendSecond(b []byte, at time.Time) []byte {
	last := lastSecond.Load()
	if last == nil || last.unix != at.Unix() {
		last = &second{at.Unix(), at.Format("2006-01-02T15:04:05-0700")}
		lastSecond.Store(last)
	}
	return append(b, last.text...)
}

// fileStyle is that of a log file.
func fileStyle(b []byte, at time.Time, level slog.Level, msg string) []byte {
	b = append(b, '[')
	b = at.AppendFormat(b, "2006-01-02 15:04:05")
	return syslogStyle(append(b, "] "...), at, level, msg)
}

// syslogStyle leaves the time to syslog.
func syslogStyle(b []byte, _ time.Time, level slog.Level, msg string) []byte {
	return fmt.Appendf(b, "%s %-40s", strings.ToUpper(wstunnelLevel(level)), strings.NewReplacer("\n", " ", "\r", " ").Replace(msg))
}

func wstunnelLevel(l slog.Level) string {
	switch {
	case l >= levelCrit:
		return "crit"
	case l >= slog.LevelError:
		return "eror"
	case l >= slog.LevelWarn:
		return "warn"
	case l >= slog.LevelInfo:
		return "info"
	}
	return "dbug"
}

// newWstunnelLog returns a logger that writes the original's lines.
// What is not important waits a moment for more of its kind; flush writes it.
func newWstunnelLog(out io.Writer, style wstunnelStyle, pkg string) (log *slog.Logger, flush func()) {
	lines := &gatheredLines{out: out}
	h := &wstunnelHandler{style: style, lines: lines}
	return slog.New(h.WithAttrs([]slog.Attr{slog.String("pkg", pkg)})), lines.flush
}

const (
	// gatherTime is how long a line waits at the most.
	gatherTime = 50 * time.Millisecond

	// gatherSize is from when on lines wait no longer, in bytes.
	gatherSize = 16 << 10
)

// gatheredLines writes many lines at once: a busy tunnel has four for each
// request.
type gatheredLines struct {
	mu    sync.Mutex // guards the fields below, and is held while out is written
	out   io.Writer
	held  []byte
	timer *time.Timer // nil unless something is held
}

func (g *gatheredLines) add(line []byte, now bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = append(g.held, line...)
	if now || len(g.held) >= gatherSize {
		g.flushLocked()
	} else if g.timer == nil {
		g.timer = time.AfterFunc(gatherTime, g.flush)
	}
}

func (g *gatheredLines) flush() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flushLocked()
}

func (g *gatheredLines) flushLocked() {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	if len(g.held) > 0 {
		g.out.Write(g.held)
		g.held = g.held[:0]
	}
}

type wstunnelHandler struct {
	style wstunnelStyle
	with  []byte // the fields of all lines
	lines *gatheredLines
}

func (h *wstunnelHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *wstunnelHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.with = append([]byte(nil), h.with...)
	for _, a := range attrs {
		with.with = appendLogField(with.with, a)
	}
	return &with
}

// WithGroup does nothing: the lines have no groups.
func (h *wstunnelHandler) WithGroup(string) slog.Handler { return h }

var logLines = sync.Pool{New: func() any { return new([]byte) }}

func (h *wstunnelHandler) Handle(_ context.Context, r slog.Record) error {
	line := logLines.Get().(*[]byte)
	b := h.style((*line)[:0], r.Time, r.Level, r.Message)
	b = append(b, h.with...)
	r.Attrs(func(a slog.Attr) bool {
		b = appendLogField(b, a)
		return true
	})
	b = append(b, '\n')
	h.lines.add(b, r.Level > slog.LevelInfo)
	*line = b
	logLines.Put(line)
	return nil
}

func appendLogField(b []byte, a slog.Attr) []byte {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindAny && v.Any() == nil || v.Kind() == slog.KindString && v.String() == "" {
		return b
	}
	b = append(b, ' ')
	b = append(b, a.Key...)
	b = append(b, '=')
	if v.Kind() == slog.KindInt64 {
		return strconv.AppendInt(b, v.Int64(), 10)
	}
	return appendLogValue(b, v.String())
}

// appendLogValue appends a value, in quotes if it has other than plain
// characters.
func appendLogValue(b []byte, v string) []byte {
	for _, c := range v {
		if c <= ' ' || c == '=' || c == '"' || c >= 0x7f {
			return strconv.AppendQuote(b, v)
		}
	}
	if v == "" {
		return append(b, `""`...)
	}
	return append(b, v...)
}
