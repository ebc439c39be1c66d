package httpwatch

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// FuzzWatcher holds a Watcher to itself however the bytes are cut, and to
// net/http where both understand them.
func FuzzWatcher(f *testing.F) {
	for _, tt := range cases {
		var req, resp string
		for _, p := range tt.pieces {
			if p[0] == '>' {
				req += p[2:]
			} else {
				resp += p[2:]
			}
		}
		f.Add([]byte(req), []byte(resp), 3)
	}
	f.Fuzz(func(t *testing.T, req, resp []byte, size int) {
		size = 1 + size&31
		whole, cut := &log{t: t}, &log{t: t}
		for l, n := range map[*log]int{whole: 1 << 30, cut: size} {
			w := New(l.add)
			feed(w, []string{"> " + string(req), "< " + string(resp)}, n)
			if n := len(w.req.head) + len(w.resp.head); n > 2*maxHead || len(w.pending) > maxPending {
				t.Errorf("holds %d bytes and %d exchanges", n, len(w.pending))
			}
			w.Close(nil)
		}
		got := whole.summary()
		if other := cut.summary(); !slices.Equal(got, other) {
			t.Fatalf("in pieces of %d: %q; whole: %q", size, other, got)
		}
		for i, want := range readAll(req, resp) {
			if i == len(got) || !strings.HasPrefix(got[i], "GET") && !strings.HasPrefix(got[i], "POST") {
				break // given up, or a name that was cut
			}
			if strings.Contains(got[i], " 101 ") || strings.HasSuffix(got[i], " broken") {
				break
			}
			if got[i] != want {
				t.Errorf("exchange %d: got %q, net/http sees %q", i, got[i], want)
			}
		}
	})
}

// readAll is what net/http makes of the bytes, as far as it goes.
func readAll(req, resp []byte) (lines []string) {
	in, out := bufio.NewReader(bytes.NewReader(bytes.TrimLeft(req, "\r\n"))), bufio.NewReader(bytes.NewReader(resp))
	for {
		r, err := http.ReadRequest(in)
		if err != nil || !strings.HasPrefix(r.RequestURI, "/") || len(r.RequestURI) > maxTarget {
			return lines
		}
		received, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return lines
		}
		a, err := http.ReadResponse(out, r)
		for err == nil && a.StatusCode > 101 && a.StatusCode < 200 || err == nil && a.StatusCode == 100 {
			a, err = http.ReadResponse(out, r)
		}
		if err != nil {
			return lines
		}
		sent, err := io.Copy(io.Discard, a.Body)
		if err != nil {
			return lines
		}
		lines = append(lines, line(Exchange{
			Method: r.Method, Host: r.Host, Target: r.RequestURI, Status: a.StatusCode,
			Received: received, Sent: sent, Done: true,
		}))
		if a.StatusCode == 101 || a.ContentLength < 0 && len(a.TransferEncoding) == 0 {
			return lines // what follows is no HTTP, or of the body
		}
	}
}
