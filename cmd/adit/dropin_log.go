package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A logStyle is how a line of a drop-in's log looks.
type logStyle func(h *lineHandler, at time.Time, level slog.Level, msg string, fields []logField) []byte

// A logField is what goes with a message.
type logField struct {
	key   string
	value any
}

// A lineHandler is a slog.Handler that writes lines as the programs did whose
// logs somebody reads already.
type lineHandler struct {
	style  logStyle
	level  slog.Level
	rename map[string]string // of keys
	logger string            // its name, where the style has one
	host   string
	began  time.Time
	attrs  []slog.Attr
	prefix string // of groups

	mu  *sync.Mutex // guards out
	out []io.Writer
}

func newLineHandler(style logStyle, level slog.Level, out ...io.Writer) *lineHandler {
	host, _ := os.Hostname()
	return &lineHandler{style: style, level: level, host: host, began: time.Now(), mu: new(sync.Mutex), out: out}
}

// Enabled implements slog.Handler.
func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

// WithAttrs implements slog.Handler.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = slices.Clip(h.attrs)
	for _, a := range attrs {
		a.Key = h.prefix + a.Key
		with.attrs = append(with.attrs, a)
	}
	return &with
}

// WithGroup implements slog.Handler.
func (h *lineHandler) WithGroup(name string) slog.Handler {
	with := *h
	with.prefix += name + "."
	return &with
}

// Handle implements slog.Handler.
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var fields []logField
	add := func(a slog.Attr) bool {
		v := a.Value.Resolve()
		if v.Kind() == slog.KindAny && v.Any() == nil || a.Key == "" {
			return true
		}
		if to := h.rename[a.Key]; to != "" {
			a.Key = to
		}
		f := logField{a.Key, v.Any()}
		switch x := f.value.(type) {
		case error:
			f.value = x.Error()
		case fmt.Stringer:
			f.value = x.String()
		}
		fields = append(fields, f)
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(func(a slog.Attr) bool {
		a.Key = h.prefix + a.Key
		return add(a)
	})
	slices.SortStableFunc(fields, func(a, b logField) int { return strings.Compare(a.key, b.key) })
	line := append(h.style(h, r.Time, r.Level, r.Message, fields), '\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	var first error
	for _, w := range h.out {
		var err error
		if lw, ok := w.(levelWriter); ok {
			err = lw.WriteLevel(r.Level, line)
		} else {
			_, err = w.Write(line)
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// A levelWriter is told how important a line is.
type levelWriter interface {
	WriteLevel(level slog.Level, line []byte) error
}

// levelFatal is that of the last line before a program ends for it.
const levelFatal = slog.LevelError + 4

func levelName(l slog.Level) string {
	switch {
	case l >= levelFatal:
		return "fatal"
	case l >= slog.LevelError:
		return "error"
	case l >= slog.LevelWarn:
		return "warning"
	case l >= slog.LevelInfo:
		return "info"
	}
	return "debug"
}

// textStyle is time="…" level=info msg="…" key=value.
func textStyle(_ *lineHandler, at time.Time, level slog.Level, msg string, fields []logField) []byte {
	b := fmt.Appendf(nil, "time=%q level=%s msg=%s", at.Format(time.RFC3339), levelName(level), quoted(msg))
	for _, f := range fields {
		b = fmt.Appendf(b, " %s=%s", f.key, quoted(fmt.Sprint(f.value)))
	}
	return b
}

// quoted puts text into quotes unless it is of the simplest kind.
func quoted(s string) string {
	plain := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._/@^+", r))
	})
	if plain {
		return s
	}
	return strconv.Quote(s)
}

// colourStyle is for a terminal: LEVEL[seconds] message, and the fields.
func colourStyle(h *lineHandler, at time.Time, level slog.Level, msg string, fields []logField) []byte {
	colour := map[string]int{"fatal": 31, "error": 31, "warning": 33, "info": 36, "debug": 37}[levelName(level)]
	b := fmt.Appendf(nil, "\x1b[%dm%.4s\x1b[0m[%04d] %-44s", colour, strings.ToUpper(levelName(level)), int(at.Sub(h.began).Seconds()), msg)
	for _, f := range fields {
		b = fmt.Appendf(b, " \x1b[%dm%s\x1b[0m=%s", colour, f.key, quoted(fmt.Sprint(f.value)))
	}
	return b
}

// jsonStyle is one object with level, msg, time and the fields.
func jsonStyle(_ *lineHandler, at time.Time, level slog.Level, msg string, fields []logField) []byte {
	o := make(map[string]any)
	for _, f := range fields {
		o[f.key] = f.value
	}
	o["level"], o["msg"], o["time"] = levelName(level), msg, at.Format(time.RFC3339)
	return object(o)
}

// envelopeStyle is that of websocktunnel in production: an envelope that many
// programs share, around the fields.
func envelopeStyle(h *lineHandler, at time.Time, level slog.Level, msg string, fields []logField) []byte {
	severity := 7
	switch {
	case level >= slog.LevelError:
		severity = 3
	case level >= slog.LevelWarn:
		severity = 4
	case level >= slog.LevelInfo:
		severity = 6
	}
	in := map[string]any{"msg": msg}
	for _, f := range fields {
		in[f.key] = f.value
	}
	return object(map[string]any{
		"Timestamp": at.UnixNano(), "Time": at.UTC().Format(time.RFC3339), "Type": "app.log", "Logger": h.logger,
		"Hostname": h.host, "EnvVersion": "2.0", "Pid": os.Getpid(), "Severity": severity, "Fields": in,
	})
}

func object(o map[string]any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(o); err != nil {
		return fmt.Appendf(nil, `{"level":"error","msg":%q}`, "unloggable: "+err.Error())
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// fatal logs why a program ends.
func fatal(log *slog.Logger, msg string, args ...any) {
	log.Log(context.Background(), levelFatal, msg, args...)
}
