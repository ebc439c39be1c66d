package screen

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var web = Tunnel{
	Name: "web", URLs: []string{"https://web.tunnel.example.com/"}, Upstream: "localhost:3000", Health: Up,
}

func requests() []Request {
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	return []Request{
		{Time: at(1), Tunnel: "web", Method: "GET", Target: "/", Status: 200, Duration: 3100 * time.Microsecond, Sent: 5120, Done: true},
		{Time: at(1), Tunnel: "web", Method: "GET", Target: "/static/app.css?v=12", Status: 304, Duration: 900 * time.Microsecond, Done: true},
		{Time: at(4), Tunnel: "api", Method: "POST", Target: "/webhooks/stripe", Status: 500, Duration: 1234 * time.Millisecond, Sent: 21, Done: true},
		{Time: at(5), Tunnel: "web", Method: "GET", Target: "/users/" + strings.Repeat("0123456789", 12), Status: 404, Duration: 12 * time.Millisecond, Sent: 19, Done: true},
		{Time: at(6), Tunnel: "web", Method: "PROPFIND", Target: "/download.iso", Status: 200, Duration: 95 * time.Second, Sent: 4_700_000_000, Done: true},
		{Time: at(7), Tunnel: "web", Method: "GET", Target: "/download.iso", Status: 200, Duration: 2 * time.Second, Sent: 70_000_000, Done: true, Broken: true},
		{Time: at(7), Tunnel: "web", Method: "GET", Target: "/events", Status: 200, Duration: time.Minute, Sent: 900, Done: true, Broken: true, Left: true},
		{Time: at(8), Tunnel: "web", Method: "GET", Target: "/events", Status: 200, Duration: 5 * time.Millisecond},
		{Time: at(9), Tunnel: "api", Method: "GET", Target: "/slow"},
		{Time: at(10), Tunnel: "web", Method: "GET", Target: "/socket", Status: 101, Duration: 5 * time.Millisecond},
	}
}

var logs = []Log{
	{Time: noon, Level: "warn", Text: `session not resumed err="dial tcp 203.0.113.5:443: connect: connection refused"`, Count: 3},
	{Time: noon.Add(time.Minute), Level: "error", Text: "upstream not reached", Count: 1},
}

var views = map[string]View{
	"connecting": {Phase: Connecting, Server: "wss://tunnel.example.com", Tunnels: []Tunnel{{Name: "web", Upstream: "localhost:3000", Health: Up}}},
	"waiting": {
		Phase: Waiting, Server: "wss://tunnel.example.com", Now: noon, Retry: noon.Add(3500 * time.Millisecond),
		Reason:  "tunnel.example.com:443: connection refused",
		Tunnels: []Tunnel{{Name: "web", Upstream: "localhost:3000"}},
	},
	"connected": {Phase: Connected, Server: "wss://tunnel.example.com", RoundTrip: 23 * time.Millisecond, Tunnels: []Tunnel{web}},
	"requests": {
		Phase: Connected, Server: "wss://tunnel.example.com", RoundTrip: 400 * time.Microsecond, Tunnels: []Tunnel{web},
		Streams: Streams{Open: 3, Total: 28}, Requested: 1280, Requests: requests(),
	},
	"reconnecting": {
		Phase: Reconnecting, Server: "wss://tunnel.example.com", Now: noon, Retry: noon.Add(4 * time.Second),
		Reason:  "tunnel.example.com:443: connection refused",
		Tunnels: []Tunnel{web}, Streams: Streams{Open: 1, Total: 12}, Reconnects: 1, Requests: requests(), Logs: logs,
	},
	"retrying": {
		Phase: Reconnecting, Server: "wss://tunnel.example.com", Now: noon, Retry: noon,
		Reason: "no answer in time", Tunnels: []Tunnel{web},
	},
	"refused": {
		Phase: Refused, Server: "wss://tunnel.example.com", Now: noon, Retry: noon.Add(15 * time.Second),
		Reason:  "the credential is not valid (give the server's secret, or a token signed with it, in --secret-file or ADIT_TOKEN)",
		Tunnels: []Tunnel{{Name: "web", Upstream: "localhost:3000"}},
	},
	"upstream-down": {
		Phase: Connected, Server: "wss://tunnel.example.com", RoundTrip: 180 * time.Millisecond,
		Tunnels: []Tunnel{{Name: "web", URLs: web.URLs, Upstream: "localhost:3000", Health: Down, Problem: "connection refused"}},
		Notes:   []string{"The way to the server is not encrypted, nor is the credential on it: see wss://."},
	},
	"several": {
		Phase: Connected, Server: "wss://tunnel.example.com", RoundTrip: 23 * time.Millisecond,
		Tunnels: []Tunnel{
			{Name: "web", URLs: []string{"https://web.tunnel.example.com/", "http://tunnel.example.com/web/"}, Upstream: "localhost:3000", Health: Up},
			{Name: "api", URLs: []string{"https://api.tunnel.example.com/"}, Upstream: "unix:/run/api.sock", Health: Down, Problem: "no such file or directory"},
			{Name: "ssh", URLs: []string{"tcp://tunnel.example.com:2222"}, Upstream: "localhost:22"},
			{Name: "mail", Upstream: "localhost:25", Problem: "mail belongs to somebody else (choose another --id)"},
		},
		Streams: Streams{Open: 12, Total: 99}, Requests: requests(),
	},
	"tcp": {
		Phase: Connected, Server: "ws://localhost:8080", RoundTrip: 400 * time.Microsecond,
		Tunnels: []Tunnel{{Name: "db", URLs: []string{"tcp://localhost:2222"}, Upstream: "db.internal:5432", Health: Up}},
		Streams: Streams{Open: 1, Total: 3},
		Requests: []Request{
			{Time: noon, Method: "TCP", Target: "203.0.113.9:40112", Duration: 80 * time.Second, Sent: 1_200_000, Done: true, Conn: true},
			{Time: noon, Method: "TCP", Target: "[2001:db8::17]:40113", Duration: time.Second, Sent: 12, Done: true, Broken: true, Conn: true},
			{Time: noon, Method: "TCP", Target: "203.0.113.9:40114", Conn: true},
		},
	},
	"long-address": {
		Phase: Connected, Server: "wss://tunnel.example.com",
		Tunnels: []Tunnel{{Name: "web", URLs: []string{"https://" + strings.Repeat("a-long-name-", 6) + ".tunnel.example.com/"}, Upstream: "localhost:3000"}},
	},
	"many": {
		Phase: Connected, Server: "wss://tunnel.example.com", Tunnels: many(40), Requests: requests(), Logs: logs,
	},
	"stopping": {Phase: Stopping, Server: "wss://tunnel.example.com", Tunnels: []Tunnel{web}, Streams: Streams{Open: 1, Total: 9}, Requests: requests()},
	"stopped":  {Phase: Stopped, Server: "wss://tunnel.example.com", Tunnels: []Tunnel{web}, Streams: Streams{Total: 9}, Requests: requests()},
	"wide": {
		Phase: Refused, Server: "wss://例え.example", Reason: "日本語の理由がここに書かれていて、とても長いので行に収まらない。 次の行に続く。",
		Tunnels:  []Tunnel{{Name: "web", URLs: []string{"https://web.example/"}, Upstream: "サーバー:80", Health: Down, Problem: "応答なし"}},
		Requests: []Request{{Time: noon, Method: "GET", Target: "/文書/とても長い名前の文書とても長い名前の文書とても長い名前の文書.html", Status: 200, Duration: time.Millisecond, Done: true}},
	},
}

func many(n int) (ts []Tunnel) {
	for i := range n {
		ts = append(ts, Tunnel{Name: fmt.Sprint("t", i), URLs: []string{fmt.Sprintf("https://t%d.tunnel.example.com/", i)}, Upstream: fmt.Sprintf("localhost:%d", 3000+i)})
	}
	return ts
}

var sizes = [][2]int{{80, 24}, {40, 24}, {120, 50}, {80, 8}}

// TestRender compares what is shown with the files in testdata, which were
// looked at.
func TestRender(t *testing.T) {
	t.Parallel()
	for name, v := range views {
		var b strings.Builder
		for _, s := range sizes {
			fmt.Fprintf(&b, "=== %d x %d\n", s[0], s[1])
			for _, l := range Render(v, s[0], s[1], Style{Plain: true, Unicode: true}) {
				b.WriteString(l.Text + "\n")
			}
		}
		golden(t, name, b.String())
	}
}

// TestRenderStyles shows what colours and characters terminals get.
func TestRenderStyles(t *testing.T) {
	t.Parallel()
	for name, style := range map[string]Style{
		"style-color": {Color: true, Unicode: true}, "style-mono": {Unicode: true}, "style-ascii": {Plain: true},
	} {
		var b strings.Builder
		for _, view := range []string{"reconnecting", "upstream-down", "requests", "wide"} {
			for _, l := range Render(views[view], 80, 24, style) {
				b.WriteString(strings.ReplaceAll(l.Text, "\x1b", "ESC") + "\n")
			}
			b.WriteString("===\n")
		}
		golden(t, name, b.String())
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant (-update if this is right)\n%s", name, got, want)
	}
}

// TestRenderFits tries all sizes: lines fit, and so does the block.
func TestRenderFits(t *testing.T) {
	t.Parallel()
	for name, v := range views {
		for cols := 1; cols < 130; cols++ {
			for _, rows := range []int{1, 2, 4, 5, 7, 10, 15, 24, 60} {
				lines := Render(v, cols, rows, Style{Plain: true, Unicode: true})
				height := 0
				for _, l := range lines {
					height += l.rows(max(cols, minCols))
					if l.Width > max(cols, minCols) && !l.Wrap || l.Width != width(l.Text) {
						t.Errorf("%s at %dx%d: line of %d columns, said to be %d: %q", name, cols, rows, width(l.Text), l.Width, l.Text)
					}
				}
				if height >= max(rows, minRows) && len(lines) > 1 {
					t.Errorf("%s at %dx%d: %d rows", name, cols, rows, height)
				}
				if len(lines) == 0 {
					t.Errorf("%s at %dx%d: nothing", name, cols, rows)
				}
			}
		}
	}
}

// TestNothingInjected has everything that comes from others hold what a
// terminal would act upon.
func TestNothingInjected(t *testing.T) {
	t.Parallel()
	for _, evil := range []string{
		"\x1b[2J\x1b[H", "\x1b]0;title\x07", "\x1b]8;;http://evil/\x1b\\click\x1b]8;;\x1b\\", "\x1bP1$r\x1b\\", "\x9b2J", "\u009b2J", "\r\n\x1b[A",
		"\x08\x08\x08", "\x7f", "\t", "\x0e", "a\u202eb", "a\u2066b\u2069", "zero\u200bwidth", "\ufeff", "e" + strings.Repeat("\u0301", 50), "\xff\xfe",
		"\u2028", "\u00a0", "\u3000", "\U000e0041",
	} {
		v := View{
			Phase: Refused, Server: evil, Reason: evil, Notes: []string{evil},
			Tunnels:  []Tunnel{{Name: evil, URLs: []string{evil, evil}, Upstream: evil, Health: Down, Problem: evil}, {Name: evil, Problem: evil}},
			Requests: []Request{{Tunnel: evil, Method: evil, Target: evil, Status: 200, Done: true}},
			Logs:     []Log{{Level: "warn", Text: evil, Count: 2}},
		}
		for _, style := range []Style{{Color: true, Unicode: true}, {Color: true}} {
			for _, l := range Render(v, 100, 40, style) {
				text := l.Text
				for _, r := range []role{strong, faint, good, warn, bad, "0"} {
					text = strings.ReplaceAll(text, "\x1b["+string(r)+"m", "")
				}
				for _, r := range text {
					if r < ' ' || r >= 0x7f && r < 0xa0 || strings.ContainsRune("\u202e\u2066\u2069\u200b\ufeff\u2028\u00a0\u3000\U000e0041", r) ||
						!style.Unicode && r > '~' {
						t.Errorf("%q: %q is written in %q", evil, r, l.Text)
					}
				}
				if strings.Count(text, "\u0301") > maxMarks*4 {
					t.Errorf("%d marks in %q", strings.Count(text, "\u0301"), text)
				}
			}
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[2J", 10)
	f.Add("日本語e\u0301", 3)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = limit & 63
		for _, st := range []Style{{Unicode: true}, {}} {
			got := st.cut(st.clean(s), limit)
			if width(got) > limit {
				t.Errorf("%q in %d columns: %q has %d", s, limit, got, width(got))
			}
			v := newVT(t, 500, 10)
			v.Write([]byte(got)) // complains of control characters
			for _, line := range st.wrap(st.clean(s), max(limit, 1), 3) {
				if width(line) > max(limit, 1) {
					t.Errorf("%q in lines of %d columns: %q has %d", s, limit, line, width(line))
				}
			}
		}
	})
}

func TestFormats(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0.0 ms", 1240 * time.Microsecond: "1.2 ms", 9949 * time.Microsecond: "9.9 ms", 9950 * time.Microsecond: "10 ms", 999499 * time.Microsecond: "999 ms",
		999600 * time.Microsecond: "1.00 s", 59994 * time.Millisecond: "59.99 s", 59995 * time.Millisecond: "1m00s", 61 * time.Second: "1m01s",
		time.Hour: "1h00m", 100 * time.Hour: "100h00m", 2000 * time.Hour: "83 days",
	} {
		if got := duration(d); got != want || len(got) > 7 {
			t.Errorf("duration %v: got %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 999499: "999 kB", 999500: "1.0 MB", 5e9: "5.0 GB", 1 << 62: "4612 PB",
	} {
		if got := size(n); got != want || len(got) > 7 {
			t.Errorf("size %d: got %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{time.Millisecond: "1 s", time.Second: "1 s", 1001 * time.Millisecond: "2 s", 15 * time.Second: "15 s"} {
		if got := countdown(d); got != want {
			t.Errorf("countdown %v: got %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{300 * time.Microsecond: "under 1 ms", 1600 * time.Microsecond: "2 ms", 87 * time.Millisecond: "85 ms", 333 * time.Millisecond: "340 ms"} {
		if got := roundTrip(d); got != want {
			t.Errorf("round trip %v: got %q, want %q", d, got, want)
		}
	}
}
