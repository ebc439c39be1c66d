package main

import (
	"log/slog"
	"os"
	"time"

	"github.com/spf13/pflag"
)

// logFlags are the flags of commands that log.
type logFlags struct {
	level  string
	format string
}

// add adds the flags. quiet is for commands that tell a person what goes on in
// words of their own.
func (l *logFlags) add(f *pflag.FlagSet, quiet bool) {
	levels := "debug, info, warn or error (default info)"
	if quiet {
		levels = "debug, info, warn or error (default info, on a terminal error, on the screen warn)"
	}
	f.StringVar(&l.level, "log-level", "", levels)
	f.StringVar(&l.format, "log-format", "auto", "text, json, or auto: text on a terminal, JSON otherwise")
}

// logger returns a logger to p's error output. quiet is as for add.
func (p *program) logger(l logFlags, quiet bool) (*slog.Logger, error) {
	level := slog.LevelInfo
	if quiet && p.console {
		level = slog.LevelError
	}
	switch l.level {
	case "":
	case "debug":
		level = slog.LevelDebug
	case "info":
		level = slog.LevelInfo
	case "warn":
		level = slog.LevelWarn
	case "error":
		level = slog.LevelError
	default:
		return nil, usagef("--log-level %q: debug, info, warn and error are allowed", l.level)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch {
	case l.format == "text", l.format == "auto" && p.console:
		if p.console {
			opts.ReplaceAttr = shortTime
		}
		return slog.New(slog.NewTextHandler(p.errOut, opts)), nil
	case l.format == "json", l.format == "auto":
		return slog.New(slog.NewJSONHandler(p.errOut, opts)), nil
	}
	return nil, usagef("--log-format %q: auto, text and json are allowed", l.format)
}

// shortTime is for people, who know what day it is.
func shortTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		a.Value = slog.StringValue(a.Value.Time().Format(time.TimeOnly))
	}
	return a
}

// isTerminal reports whether f is one, as far as its kind of file tells.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice|os.ModeCharDevice &&
		f.Name() != os.DevNull
}
