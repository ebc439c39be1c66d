package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"
)

func TestLineHandler(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 20, 20, 1, 48, 0, time.UTC)
	for name, tt := range map[string]struct {
		style logStyle
		want  string
	}{
		"text":   {textStyle, `time="2026-11-20T20:01:48Z" level=warning msg="a message" a.deep=1 err="it \"broke\"" plain=x-y.z/1 remote-addr="127.0.0.1:80"` + "\n"},
		"json":   {jsonStyle, `{"a.deep":1,"err":"it \"broke\"","level":"warning","msg":"a message","plain":"x-y.z/1","remote-addr":"127.0.0.1:80","time":"2026-11-20T20:01:48Z"}` + "\n"},
		"colour": {colourStyle, "\x1b[33mWARN\x1b[0m[0007] a message                                    \x1b[33ma.deep\x1b[0m=1 \x1b[33merr\x1b[0m=\"it \\\"broke\\\"\" \x1b[33mplain\x1b[0m=x-y.z/1 \x1b[33mremote-addr\x1b[0m=\"127.0.0.1:80\"\n"},
	} {
		var b bytes.Buffer
		h := newLineHandler(tt.style, slog.LevelInfo, &b)
		h.began = at.Add(-7 * time.Second)
		h.rename = map[string]string{"remote": "remote-addr"}
		l := h.WithAttrs([]slog.Attr{
			slog.String("plain", "x-y.z/1"), slog.Any("remote", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}),
			slog.Any("err", errors.New(`it "broke"`)), slog.Any("none", nil),
		}).WithGroup("a")
		r := slog.NewRecord(at, slog.LevelWarn, "a message", 0)
		r.Add("deep", 1)
		if err := l.Handle(context.Background(), r); err != nil {
			t.Error(err)
		}
		if l.Enabled(context.Background(), slog.LevelDebug) {
			t.Errorf("%s: debug is enabled", name)
		}
		if got := b.String(); got != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", name, got, tt.want)
		}
	}
}
