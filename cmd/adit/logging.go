package main

import (
	"io"
	"log/slog"
	"os"

	"github.com/spf13/pflag"
)

// logFlags are the flags of commands that log.
type logFlags struct {
	level  string
	format string
}

func (l *logFlags) add(f *pflag.FlagSet) {
	f.StringVar(&l.level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&l.format, "log-format", "auto", "text, json, or auto: text on a terminal, JSON otherwise")
}

// logger returns a logger that writes to w, a terminal or not.
func (l *logFlags) logger(w io.Writer, terminal bool) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, usagef("--log-level %q: debug, info, warn and error are allowed", l.level)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch {
	case l.format == "text", l.format == "auto" && terminal:
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case l.format == "json", l.format == "auto":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, usagef("--log-format %q: auto, text and json are allowed", l.format)
}

// isTerminal reports whether f is one, as far as its kind of file tells.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
