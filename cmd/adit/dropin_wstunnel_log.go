package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
)

// levelCrit is that of the last line of a wstunnel that cannot start.
const levelCrit = slog.LevelError + 8

// A wstunnelStyle begins a line of the original's log.
type wstunnelStyle func(b []byte, at time.Time, level slog.Level, msg string) []byte

// logfmtStyle is that of standard output.
func logfmtStyle(b []byte, at time.Time, level slog.Level, msg string) []byte {
	b = append(b, "t="...)
	b = at.AppendFormat(b, "2006-01-02T15:04:05-0700")
	b = append(b, " lvl="...)
	b = append(b, wstunnelLevel(level)...)
	b = append(b, " msg="...)
	return appendLogValue(b, msg)
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
func newWstunnelLog(out io.Writer, style wstunnelStyle, pkg string) *slog.Logger {
	h := &wstunnelHandler{style: style, mu: new(sync.Mutex), out: out}
	return slog.New(h.WithAttrs([]slog.Attr{slog.String("pkg", pkg)}))
}

type wstunnelHandler struct {
	style wstunnelStyle
	with  []byte // the fields of all lines
	mu    *sync.Mutex
	out   io.Writer // written with mu held
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
	h.mu.Lock()
	_, err := h.out.Write(b)
	h.mu.Unlock()
	*line = b
	logLines.Put(line)
	return err
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
