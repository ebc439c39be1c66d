package accesslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"adit/ingress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var request = ingress.Finished{
	Remote:    netip.MustParseAddrPort("203.0.113.7:40000"),
	Method:    "POST",
	Host:      "web.example.com",
	Path:      "/a b",
	Proto:     "HTTP/1.1",
	Secure:    true,
	UserAgent: `curl "8"`,
	Referer:   "https://user:password@example.com/page?token=secret#part",
	ID:        "web",
	Service:   "1",
	Status:    502,
	Code:      "agent-lost",
	Received:  3,
	Sent:      128,
	Duration:  1500 * time.Millisecond,
	Waited:    time.Second,
	Tries:     2,
	Trace:     "0af7651916cd43dd8448eb211c80319c",
}

var noon = time.Date(2026, 11, 21, 12, 0, 1, 500e6, time.UTC)

func TestLines(t *testing.T) {
	t.Parallel()
	malformed := ingress.Finished{Remote: netip.MustParseAddrPort("[2001:db8::1]:1"), Status: 400, Code: "bad-request"}
	for _, tt := range []struct {
		name    string
		line    func([]byte, *ingress.Finished, time.Time) []byte
		request ingress.Finished
		want    string
	}{
		{"json", appendJSON, request, `{"time":"2026-11-21T12:00:00.000Z","remote":"203.0.113.7:40000","method":"POST","host":"web.example.com","path":"/a b",` +
			`"proto":"HTTP/1.1","tls":true,"status":502,"code":"agent-lost","tunnel":"web","service":"1","received":3,"sent":128,"dur":1.500000,"waited":1.000000,"tries":2,` +
			`"user_agent":"curl \"8\"","referer":"https://example.com/page","trace":"0af7651916cd43dd8448eb211c80319c"}`},
		{"json, malformed", appendJSON, malformed, `{"time":"2026-11-21T12:00:01.500Z","remote":"[2001:db8::1]:1","method":"","host":"","path":"",` +
			`"proto":"","tls":false,"status":400,"code":"bad-request","received":0,"sent":0,"dur":0.000000,"waited":0.000000,"tries":0,"user_agent":"","referer":""}`},
		{"json, no address", appendJSON, ingress.Finished{Status: 200}, `{"time":"2026-11-21T12:00:01.500Z","remote":"","method":"","host":"","path":"",` +
			`"proto":"","tls":false,"status":200,"received":0,"sent":0,"dur":0.000000,"waited":0.000000,"tries":0,"user_agent":"","referer":""}`},
		{"json, TCP", appendJSON, ingress.Finished{Remote: malformed.Remote, Proto: ingress.ProtoTCP, Host: ":2222", ID: "ssh", Code: "agent-offline", Received: 1, Sent: 2},
			`{"time":"2026-11-21T12:00:01.500Z","remote":"[2001:db8::1]:1","host":":2222","proto":"TCP","code":"agent-offline","tunnel":"ssh","received":1,"sent":2,"dur":0.000000}`},
		{"combined", appendCombined, request, `203.0.113.7 - - [21/Nov/2026:12:00:00 +0000] "POST /a b HTTP/1.1" 502 128 "https://example.com/page" "curl \x228\x22"`},
		{"combined, malformed", appendCombined, malformed, `2001:db8::1 - - [21/Nov/2026:12:00:01 +0000] "-" 400 0 "-" "-"`},
		{"combined, no address", appendCombined, ingress.Finished{Status: 200}, `- - - [21/Nov/2026:12:00:01 +0000] "-" 200 0 "-" "-"`},
	} {
		if got := string(tt.line(nil, &tt.request, noon)); got != tt.want+"\n" {
			t.Errorf("%s:\ngot  %swant %s", tt.name, got, tt.want)
		}
	}
}

func TestCombinedIsForHTTPAlone(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	l, err := Open(Options{Writer: &b, Format: Combined})
	if err != nil {
		t.Fatal(err)
	}
	l.Record(ingress.Finished{Proto: ingress.ProtoTLS})
	l.Close()
	if b.Len() > 0 || l.Stats().Written > 0 {
		t.Errorf("got %q", b.String())
	}
}

// Nothing that a visitor sends makes a second line, ends a field or has a
// terminal do something.
func TestInjection(t *testing.T) {
	t.Parallel()
	for _, evil := range []string{
		"a\nb", "a\r\nb", "\x1b[2J", `","status":200,"x":"`, `" 200 0 "-" "-"`, "\x00", "\x7f", "\u0085", "\u009b31m",
		"\u2028", "\u202ecod", "\u2066", "\ufeff", "\xff\xfe", `\`, `\"`, "𝄞", strings.Repeat("é", 2000), strings.Repeat("x", 100_000),
	} {
		checkLines(t, evil)
	}
}

func FuzzLines(f *testing.F) {
	f.Add("GET")
	f.Add("a\nb\"\\")
	f.Add("https://user:password@host/?q")
	f.Fuzz(checkLines)
}

// checkLines has a visitor send evil wherever it can.
func checkLines(t *testing.T, evil string) {
	r := request
	r.Method, r.Host, r.Path, r.Proto, r.UserAgent, r.Referer = evil, evil, evil, evil, evil, evil
	line := appendJSON(nil, &r, noon)
	var got struct {
		Status    int
		Code      string
		UserAgent string `json:"user_agent"`
		Referer   string
	}
	d := json.NewDecoder(bytes.NewReader(line))
	if err := d.Decode(&got); err != nil || got.Status != 502 || got.Code != "agent-lost" {
		t.Errorf("%q became %q: %v", evil, line, err)
	}
	if len(evil) <= maxField && utf8.ValidString(evil) && got.UserAgent != evil {
		t.Errorf("%q is read as %q", evil, got.UserAgent)
	}
	if strings.ContainsAny(got.Referer, "?#") {
		t.Errorf("%q: the referer has a query: %q", evil, got.Referer)
	}
	combined := appendCombined(nil, &r, noon)
	if n := bytes.Count(combined, []byte{'"'}); n != 6 {
		t.Errorf("%q became %q with %d quotes, want 6", evil, combined, n)
	}
	for _, line := range [][]byte{line, combined} {
		if bytes.IndexByte(line, '\n') != len(line)-1 || len(line) > 40*maxField {
			t.Errorf("%.100q became %d bytes with lines at %d", evil, len(line), bytes.IndexByte(line, '\n'))
		}
		for _, c := range string(line[:len(line)-1]) {
			if isCommand(c) {
				t.Errorf("%q: %q has %U", evil, line, c)
			}
		}
	}
}

func TestWithoutQuery(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"": "", "/p?q": "/p", "/p#f": "/p", "https://h/p": "https://h/p", "https://u:p@h/p@q?x": "https://h/p@q",
		"https://u@h": "https://h", "https://a@b@h": "https://h", "//u@h/": "//h/", "/a@b/c": "/a@b/c", "?": "", "https://?u@h": "https://",
		"https://u@h/_token/secret/a": "https://h/_token/[redacted]/a", "https://h/_token/secret": "https://h/_token/[redacted]",
	} {
		if got := withoutQuery(url); got != want {
			t.Errorf("%q: got %q, want %q", url, got, want)
		}
	}
}

func TestFileIsReopened(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	l, err := Open(Options{Path: path, Format: Combined})
	if err != nil {
		t.Fatal(err)
	}
	record := func(path string) {
		l.Record(ingress.Finished{Method: "GET", Path: path, Proto: "HTTP/1.1", Status: 200})
	}
	record("/one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	record("/two")
	apply, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	apply()
	record("/three")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	record("/four") // nobody is there any more
	old, err := os.ReadFile(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(old); !strings.Contains(got, "/one") || !strings.Contains(got, "/two") || strings.Contains(got, "/three") {
		t.Errorf("the old file has %q", got)
	}
	if got := string(now); !strings.Contains(got, "/three") || strings.Contains(got, "/two") || strings.Contains(got, "/four") {
		t.Errorf("the new file has %q", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o137 != 0 {
		t.Errorf("got mode %v, %v, want that others can do nothing", info.Mode(), err)
	}
	if apply, err := l.Prepare(); err == nil {
		apply() // leaves nothing open
	}

	if _, err := Open(Options{Path: filepath.Join(path, "no", "such")}); err == nil {
		t.Error("a path that cannot be: got no error")
	}
	if _, err := Open(Options{Path: path, Format: "xml"}); err == nil {
		t.Error("another format: got no error")
	}
	if _, err := Open(Options{}); err == nil {
		t.Error("no file: got no error")
	}
}

// A file that cannot be opened again leaves the log as it is.
func TestReopenFails(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := Open(Options{Path: filepath.Join(dir, "access.log")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Prepare(); err == nil {
		t.Error("got no error")
	}
	l.Record(request)
	l.Close()
	if b, err := os.ReadFile(filepath.Join(dir+".old", "access.log")); err != nil || len(b) == 0 {
		t.Errorf("got %q, %v, want the line", b, err)
	}
}

// A stuckWriter takes nothing until it is let go.
type stuckWriter struct {
	entered, release chan struct{}
	once             sync.Once
	mu               sync.Mutex
	n                int
	err              error
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	w.once.Do(func() {
		close(w.entered)
		<-w.release
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	w.n += bytes.Count(p, []byte{'\n'})
	return len(p), nil
}

// A writer that is stuck holds up nobody, and takes no more memory than it may.
func TestNobodyWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &stuckWriter{entered: make(chan struct{}), release: make(chan struct{})}
		l, err := Open(Options{Writer: w, Buffer: 10_000})
		if err != nil {
			t.Fatal(err)
		}
		l.Record(request)
		<-w.entered
		const requests = 1000
		for range requests {
			l.Record(request)
		}
		s := l.Stats()
		if s.Pending > 10_000 || s.Written < 10 || s.Written+s.Dropped != requests+1 || s.MaxPending != 10_000 {
			t.Errorf("got %+v", s)
		}
		if err := l.Close(); err == nil {
			t.Error("Close of a log that is stuck: got no error")
		}
		close(w.release)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if uint64(w.n) != s.Written {
			t.Errorf("%d lines were written, want %d", w.n, s.Written)
		}
	})
}

func TestErrorsAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &stuckWriter{err: errors.New("disk full")}
		w.once.Do(func() {})
		var told []error
		l, err := Open(Options{Writer: w, OnError: func(err error) { told = append(told, err) }})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			w.mu.Lock()
			if i == 2 {
				w.err = nil
			}
			w.mu.Unlock()
			l.Record(request)
			time.Sleep(time.Second) // of the test's clock
			synctest.Wait()
		}
		l.Close()
		if len(told) != 2 || told[0] == nil || told[1] != nil {
			t.Errorf("was told %v, want the error and the end of it", told)
		}
		if s := l.Stats(); s.Failed != 2 {
			t.Errorf("got %+v", s)
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	l, err := Open(Options{Writer: io.Discard, Buffer: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.ReportAllocs()
	for b.Loop() {
		l.Record(request)
	}
}
