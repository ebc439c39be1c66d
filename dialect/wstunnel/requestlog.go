package wstunnel

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"adit/tunnel"
)

// A requestLog writes the lines about one request that operators of the original
// know. They tell neither the token nor the query, which may hold secrets.
type requestLog struct {
	log    *slog.Logger
	tunnel tunnel.ID
	id     uint16
	verb   string
	path   string
	addr   string
	xhost  string
}

func (s *Server) requestLog(t *Tunnel, ex *exchange, target, xhost string) requestLog {
	path, _, _ := strings.Cut(target, "?")
	return requestLog{s.opts.Log, t.id, ex.id, ex.method, path, ex.caller, withoutUser(xhost)}
}

// withoutUser returns an X-Host without the user and password that may be in it.
func withoutUser(xhost string) string {
	at := strings.LastIndexByte(xhost, '@')
	if at < 0 {
		return xhost
	}
	scheme, _, ok := strings.Cut(xhost, "://")
	if !ok {
		return "[redacted]" + xhost[at:]
	}
	return scheme + "://[redacted]" + xhost[at:]
}

// rcv tells that the request has come.
func (l *requestLog) rcv() {
	logLine(l.log, "HTTP RCV", slog.String("tunnel", string(l.tunnel)), slog.String("id", requestID(l.id)), slog.String("verb", l.verb),
		slog.String("url", l.path), slog.String("addr", l.addr), slog.String("x-host", l.xhost))
}

// ret tells what the caller got.
func (l *requestLog) ret(status int, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	logLine(l.log, "HTTP RET", slog.String("tunnel", string(l.tunnel)), slog.String("id", requestID(l.id)), slog.Int("status", status), slog.String("err", text))
}

// logLine is Logger.LogAttrs at level Info, without looking for who called it.
func logLine(log *slog.Logger, msg string, attrs ...slog.Attr) {
	h := log.Handler()
	if !h.Enabled(context.Background(), slog.LevelInfo) {
		return
	}
	r := slog.NewRecord(time.Now(), slog.LevelInfo, msg, 0)
	r.AddAttrs(attrs...)
	h.Handle(context.Background(), r)
}

// sending tells that a request goes to the client.
func (t *Tunnel) sending(ex *exchange) {
	logLine(t.opts.Log, "WS   SND", slog.String("tunnel", string(t.id)), slog.String("id", requestID(ex.id)), slog.String("info", ex.method))
}

// gotAnswer tells that the client has answered, in a message of size bytes, or
// on a stream if that is 0.
func (t *Tunnel) gotAnswer(ex *exchange, size int64) {
	attrs := [3]slog.Attr{slog.String("tunnel", string(t.id)), slog.String("id", requestID(ex.id)), slog.Int64("len", size)}
	logLine(t.opts.Log, "WS   RCV", attrs[:2+min(size, 1)]...)
}
