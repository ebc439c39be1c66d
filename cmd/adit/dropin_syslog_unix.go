//go:build unix

package main

import (
	"io"
	"log/slog"
	"log/syslog"
)

// dialSyslog returns a writer to a syslog server over UDP.
func dialSyslog(addr, tag string) (io.Writer, error) {
	w, err := syslog.Dial("udp", addr, syslog.LOG_INFO|syslog.LOG_DAEMON, tag)
	if err != nil {
		return nil, err
	}
	return &syslogWriter{w}, nil
}

type syslogWriter struct{ w *syslog.Writer }

// Write is for lines of which nobody says how important they are.
func (s *syslogWriter) Write(p []byte) (int, error) { return len(p), s.w.Info(string(p)) }

// WriteLevel implements levelWriter. What does not get through is lost: the log
// is on standard error too.
func (s *syslogWriter) WriteLevel(level slog.Level, line []byte) error {
	switch {
	case level >= slog.LevelError:
		return s.w.Err(string(line))
	case level >= slog.LevelWarn:
		return s.w.Warning(string(line))
	case level >= slog.LevelInfo:
		return s.w.Info(string(line))
	}
	return s.w.Debug(string(line))
}
