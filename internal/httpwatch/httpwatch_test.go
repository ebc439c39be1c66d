package httpwatch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A log is what a Watcher has told.
type log struct {
	t      testing.TB
	events []Exchange
}

func (l *log) add(e Exchange) { l.events = append(l.events, e) }

// summary has a line for each exchange, as it was told last, in the order of
// their beginning.
func (l *log) summary() []string {
	var ids []uint64
	last := make(map[uint64]Exchange)
	for _, e := range l.events {
		before, known := last[e.ID]
		if !known {
			ids = append(ids, e.ID)
		}
		switch {
		case !known && e.Status != 0, before.Done, e.Begin != before.Begin && known,
			e.Duration < before.Duration, e.Received < before.Received, e.Sent < before.Sent:
			l.t.Errorf("%+v is told after %+v", e, before)
		}
		last[e.ID] = e
	}
	lines := make([]string, len(ids))
	for i, id := range ids {
		lines[i] = line(last[id])
	}
	return lines
}

func line(e Exchange) string {
	s := fmt.Sprintf("%s %s%s %d %d/%d", e.Method, e.Host, e.Target, e.Status, e.Received, e.Sent)
	if e.Upgraded {
		s += " upgraded"
	}
	if e.Broken {
		s += " broken"
	}
	if !e.Done {
		s += " open"
	}
	return s
}

// A piece is what one side sends at once: "> " and "< " begin those of visitor
// and upstream.
func feed(w *Watcher, pieces []string, size int) {
	for _, p := range pieces {
		take := w.Request
		if p[0] == '<' {
			take = w.Response
		}
		for b := []byte(p[2:]); len(b) > 0; {
			n := min(size, len(b))
			part := slices.Clone(b[:n])
			take(part)
			clear(part) // it is not to be kept
			b = b[n:]
		}
	}
}

var errCut = errors.New("cut")

var cases = []struct {
	name   string
	pieces []string
	cut    bool // the conn ends with an error
	want   []string
}{
	{"plain", []string{"> GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n", "< HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"}, false,
		[]string{"GET h/a?b 200 0/5"}},
	{"several, with empty lines between", []string{"> GET /1 HTTP/1.1\r\nHost: h\r\n\r\n", "< HTTP/1.1 204 No Content\r\n\r\n",
		"> \r\nPOST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", "< HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"}, false,
		[]string{"GET h/1 204 0/0", "POST h/2 500 3/0"}},
	{"pipelined", []string{"> GET /1 HTTP/1.1\r\nHost: h\r\n\r\nHEAD /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n",
		"< HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 304 x\r\nContent-Length: 7\r\n\r\n"}, false,
		[]string{"GET h/1 200 0/1", "HEAD h/2 200 0/0", "GET h/3 304 0/0"}},
	{"chunked both ways", []string{"> PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nA: b\r\n\r\n",
		"< HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"}, false,
		[]string{"PUT h/ 200 3/6"}},
	{"interim responses", []string{"> PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
		"< HTTP/1.1 100 Continue\r\n\r\n", "> ok", "< HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\n1"}, false,
		[]string{"PUT h/ 201 2/1"}},
	{"response before the end of the request", []string{"> PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab",
		"< HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n", "> cdGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", "< HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}, false,
		[]string{"PUT h/ 413 2/0", "GET h/2 200 0/0"}},
	{"until the end", []string{"> GET / HTTP/1.1\r\nHost: h\r\n\r\n", "< HTTP/1.0 200 OK\r\n\r\nall of it"}, false,
		[]string{"GET h/ 200 0/9"}},
	{"until a cut", []string{"> GET / HTTP/1.1\r\nHost: h\r\n\r\n", "< HTTP/1.1 200 OK\r\n\r\nall of"}, true,
		[]string{"GET h/ 200 0/6 broken"}},
	{"no response", []string{"> GET / HTTP/1.1\r\nHost: h\r\n\r\n"}, false,
		[]string{"GET h/ 0 0/0 broken"}},
	{"half a response", []string{"> GET / HTTP/1.1\r\nHost: h\r\n\r\n", "< HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"}, false,
		[]string{"GET h/ 200 0/2 broken"}},
	{"HTTP/1.0 without a Host", []string{"> GET /old HTTP/1.0\r\n\r\n", "< HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"}, false,
		[]string{"GET /old 200 0/2"}},
	{"upgrade", []string{"> GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"< HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET / HTTP/1.1", "> POST / what", "< ever"}, false,
		[]string{"GET h/ws 101 11/18 upgraded"}},
	{"upgrade that is cut", []string{"> GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"< HTTP/1.1 101 Switching Protocols\r\n\r\n"}, true,
		[]string{"GET h/ws 101 0/0 upgraded broken"}},
	{"upgrade turned down", []string{"> GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"< HTTP/1.1 403 x\r\nContent-Length: 2\r\n\r\nno", "> GET /2 HTTP/1.1\r\nHost: h\r\n\r\n", "< HTTP/1.1 204 x\r\n\r\n"}, false,
		[]string{"GET h/ws 403 0/2", "GET h/2 204 0/0"}},
	{"bytes before the upgrade", []string{"> GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhasty"}, false,
		[]string{"GET h/ws 0 0/0 broken"}},
	{"pipelined upgrade", []string{"> GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", "< HTTP/1.1 101 x\r\n\r\n"}, false,
		[]string{"GET h/1 0 0/0 broken", "GET h/2 0 0/0 broken"}},
	{"unasked response", []string{"< HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", "> GET / HTTP/1.1\r\nHost: h\r\n\r\n"}, false, nil},
	{"HTTP/2", []string{"> PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "< \x00\x00\x00\x04\x00\x00\x00\x00\x00"}, false, nil},
	{"TLS", []string{"> \x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "< \x16\x03\x03"}, false, nil},
	{"a response that is none", []string{"> GET / HTTP/1.1\r\nHost: h\r\n\r\n", "< SSH-2.0-OpenSSH\r\n"}, false,
		[]string{"GET h/ 0 0/0 broken"}},
	{"bad chunk", []string{"> GET / HTTP/1.1\r\nHost: h\r\n\r\n", "< HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n"}, false,
		[]string{"GET h/ 200 0/2 broken"}},
	{"control characters in the target", []string{"> GET /\x1b[2J HTTP/1.1\r\nHost: h\r\n\r\n"}, false, nil},
	{"long names", []string{"> " + strings.Repeat("M", 100) + " /" + strings.Repeat("a", 5000) + " HTTP/1.1\r\nHost: h\r\n\r\n", "< HTTP/1.1 204 x\r\n\r\n"}, false,
		[]string{strings.Repeat("M", maxMethod) + " h/" + strings.Repeat("a", maxTarget-1) + " 204 0/0"}},
	{"head too large", []string{"> GET / HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("a", maxHead) + "\r\n\r\n"}, false, nil},
	{"too many without a response", []string{"> " + strings.Repeat("GET / HTTP/1.1\r\nHost: h\r\n\r\n", maxPending+1)}, false,
		slices.Repeat([]string{"GET h/ 0 0/0 broken"}, maxPending)},
}

func TestWatcher(t *testing.T) {
	t.Parallel()
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 2, 7, 1 << 20} {
				l := &log{t: t}
				w := New(l.add)
				feed(w, tt.pieces, size)
				var err error
				if tt.cut {
					err = errCut
				}
				w.Close(err)
				feed(w, tt.pieces, size) // nothing is seen any more
				got := l.summary()
				if !slices.Equal(got, tt.want) {
					t.Errorf("in pieces of %d:\ngot  %q\nwant %q", size, got, tt.want)
				}
			}
		})
	}
}

// TestEvents has each step of an exchange told when it happens, and no more.
func TestEvents(t *testing.T) {
	t.Parallel()
	l := &log{t: t}
	w := New(l.add)
	step := func(what, piece string, want ...string) {
		t.Helper()
		before := len(l.events)
		feed(w, []string{piece}, len(piece))
		var got []string
		for _, e := range l.events[before:] {
			got = append(got, line(e))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: told %q, want %q", what, got, want)
		}
	}
	step("half a request", "> GET / HTTP/1.1\r\nHo")
	step("the other half", "> st: h\r\n\r\n", "GET h/ 0 0/0 open")
	step("an interim response", "< HTTP/1.1 103 x\r\n\r\n")
	step("the head", "< HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na", "GET h/ 200 0/1 open")
	step("more", "< b")
	step("the end", "< cd", "GET h/ 200 0/4")
	step("another request", "> GET /2 HTTP/1.1\r\nHost: h\r\n\r\n", "GET h/2 0 0/0 open")
	step("a response that comes whole", "< HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", "GET h/2 200 0/1")
	step("a third", "> GET /3 HTTP/1.1\r\nHost: h\r\n\r\n", "GET h/3 0 0/0 open")
	step("a response up to the end", "< HTTP/1.1 200 OK\r\n\r\nab", "GET h/3 200 0/2 open")
	before := len(l.events)
	w.Response(nil)
	if len(l.events) != before+1 || line(l.events[before]) != "GET h/3 200 0/2" {
		t.Errorf("at the end: told %+v, want that it is done", l.events[before:])
	}
	if w.req.head != nil || w.resp.head != nil || len(w.pending) != 0 {
		t.Errorf("an idle Watcher holds %d and %d bytes and %d exchanges", cap(w.req.head), cap(w.resp.head), len(w.pending))
	}
}

// TestReportOrder has the two directions report at the same time: one waits for
// nobody, and the order stays.
func TestReportOrder(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	l := &log{t: t}
	w := New(func(e Exchange) {
		if e.Status == 0 {
			close(entered)
			<-release
		}
		l.add(e)
	})
	done := make(chan struct{})
	go func() {
		w.Request([]byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n"))
		close(done)
	}()
	<-entered
	w.Response([]byte("HTTP/1.1 204 x\r\n\r\n")) // does not block
	close(release)
	<-done
	if got, want := l.summary(), []string{"GET h/ 204 0/0"}; len(l.events) != 2 || !slices.Equal(got, want) {
		t.Errorf("got %d events, %q; want 2, %q", len(l.events), got, want)
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	l := &log{t: t}
	w := New(l.add)
	begin := time.Now()
	feed(w, []string{"> GET / HTTP/1.1\r\nHost: h\r\n\r\n"}, 100)
	for time.Since(begin) < 2*time.Millisecond {
	}
	feed(w, []string{"< HTTP/1.1 204 x\r\n\r\n"}, 100)
	e := l.events[len(l.events)-1]
	if e.Duration < time.Millisecond || e.Duration > time.Since(begin) || e.Begin.Before(begin) {
		t.Errorf("begin %v, duration %v; want about 2ms from %v", e.Begin, e.Duration, begin)
	}
}

// The cost for the bytes that pass.
func BenchmarkRequest(b *testing.B) {
	req := []byte("GET /some/path?with=query HTTP/1.1\r\nHost: app.example.com\r\nUser-Agent: bench/1\r\nAccept: */*\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n")
	resp := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Length: 1024\r\n\r\n"), make([]byte, 1024)...)
	w := New(func(Exchange) {})
	b.ReportAllocs()
	for b.Loop() {
		w.Request(req)
		w.Response(resp)
	}
	if w.lost.Load() {
		b.Fatal("lost")
	}
}

func BenchmarkBody(b *testing.B) {
	w := New(func(Exchange) {})
	w.Request([]byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n"))
	w.Response([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	body := make([]byte, 64<<10)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		w.Response(body)
	}
}
