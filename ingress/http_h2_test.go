package ingress

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"adit/tunnel/tunneltest"
)

// An h2Conn speaks HTTP/2 frame by frame.
type h2Conn struct {
	*http2.Framer
	c   *rawConn
	t   testing.TB
	enc *hpack.Encoder
	buf bytes.Buffer
}

// dialH2 begins a conn for name. What comes back is read by the caller.
func (d *door) dialH2(name string) *h2Conn {
	d.t.Helper()
	c := d.dial(d.config(name, "h2"))
	if p := c.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; p != "h2" {
		d.t.Fatalf("got the protocol %q, want h2", p)
	}
	h := &h2Conn{Framer: http2.NewFramer(c.Conn, c.r), c: c, t: d.t}
	h.enc = hpack.NewEncoder(&h.buf)
	h.AllowIllegalWrites = true
	h.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.send(http2.ClientPreface)
	if err := h.WriteSettings(); err != nil {
		d.t.Fatal(err)
	}
	return h
}

// headers sends a header block of "name: value" lines as it is, good or not.
func (h *h2Conn) headers(stream uint32, end bool, fields ...string) error {
	h.buf.Reset()
	for _, f := range fields {
		name, value, _ := strings.Cut(f[1:], ": ")
		h.enc.WriteField(hpack.HeaderField{Name: f[:1] + name, Value: value})
	}
	return h.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: h.buf.Bytes(), EndHeaders: true, EndStream: end})
}

// outcome returns the status that a stream gets, or how it or the conn ends.
func (h *h2Conn) outcome(stream uint32) string {
	for {
		f, err := h.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				return f.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return "reset"
			}
		case *http2.GoAwayFrame:
			return "goaway"
		}
	}
}

// What an upstream of HTTP/1.1 would take for more or for other requests than
// there are is refused when it comes in HTTP/2.
func TestSmugglingFromHTTP2(t *testing.T) {
	t.Parallel()
	const victim = "GET /smuggled HTTP/1.1\r\nHost: web.example.com\r\n\r\n"
	usual := []string{":method: POST", ":scheme: https", ":authority: web.example.com", ":path: /"}
	with := func(more ...string) []string { return append(usual[:4:4], more...) }
	instead := func(at int, field string) []string {
		f := append([]string(nil), usual...)
		f[at] = field
		return f
	}
	for _, tt := range []struct {
		name   string
		fields []string
		body   string
		want   string // outcomes, separated by spaces
	}{
		{"good", with("content-length: 3"), "abc", "200"},
		{"good without length", usual, "abc", "200"},

		{"transfer-encoding", with("transfer-encoding: chunked"), "0\r\n\r\n" + victim, "400 reset"},
		{"transfer-encoding and length", with("content-length: 3", "transfer-encoding: chunked"), "0\r\n\r\n" + victim, "400 reset"},
		{"connection", with("connection: x-forwarded-for"), "", "400 reset"},
		{"proxy-connection", with("proxy-connection: keep-alive"), "", "400 reset"},
		{"keep-alive", with("keep-alive: timeout=5"), "", "400 reset"},
		{"upgrade", with("upgrade: websocket"), "", "400 reset"},
		{"te", with("te: chunked"), "", "400 reset"},
		{"length too short", with("content-length: 0"), victim, "200 400 reset goaway"},
		{"length too long", with("content-length: 1000"), "abc", "200 reset 400 502"},
		{"two lengths", with("content-length: 3", "content-length: 40"), "abc", "400 reset"},
		{"list of lengths", with("content-length: 3, 40"), "abc", "400 reset"},
		{"length with sign", with("content-length: +3"), "abc", "400 reset"},
		{"length of letters", with("content-length: 3x"), "abc", "400 reset"},

		{"line end in a value", with("x-a: b\r\nTransfer-Encoding: chunked\r\n\r\n" + victim), "", "reset goaway"},
		{"LF in a value", with("x-a: b\nX-B: c"), "", "reset goaway"},
		{"NUL in a value", with("x-a: b\x00"), "", "reset goaway"},
		{"line end in a name", with("x-a: b\r\nfoo: bar"), "", "reset goaway"},
		{"colon in a name", with("x-a:transfer-encoding: chunked"), "", "reset goaway"},
		{"space in a name", with("x-a : b"), "", "reset goaway"},
		{"upper case", with("X-A: b"), "", "reset goaway"},
		{"empty name", with(" : b"), "", "reset goaway"},

		{"line end in the path", instead(3, ":path: / HTTP/1.1\r\nHost: evil\r\n\r\n"+victim), "", "reset goaway 400"},
		{"space in the path", instead(3, ":path: / HTTP/1.1"), "", "400 reset"},
		{"space in the query", instead(3, ":path: /?a HTTP/1.0"), "", "400 reset"},
		{"fragment", instead(3, ":path: /a#b"), "", "400 reset"},
		{"absolute path", instead(3, ":path: http://evil.example/"), "", "400 reset goaway"},
		{"star", instead(3, ":path: *"), "", "400 reset"},
		{"empty path", instead(3, ":path: "), "", "400 reset goaway"},
		{"line end in the method", instead(0, ":method: GET / HTTP/1.1\r\nX: y"), "", "reset goaway 400"},
		{"space in the method", instead(0, ":method: GET /admin HTTP/1.1"), "", "400 reset"},
		{"CONNECT", instead(0, ":method: CONNECT"), "", "400 405 reset"},
		{"line end in the authority", instead(2, ":authority: web.example.com\r\nX: y"), "", "reset goaway 400"},
		{"user in the authority", instead(2, ":authority: a@web.example.com"), "", "400 reset"},
		{"letters for a port", instead(2, ":authority: web.example.com:x"), "", "400 reset"},
		{"path in the authority", instead(2, ":authority: web.example.com/x"), "", "400 reset"},
		{"host that disagrees", with("host: other.example.com"), "", "400 reset"},
		{"hosts that disagree", with("host: web.example.com", "host: other.example.com"), "", "400 reset"},
		{"path twice", with(":path: /other"), "", "reset goaway 400"},
		{"pseudo field behind a field", append([]string{"x-a: b"}, usual...), "", "reset goaway"},
		{"unknown pseudo field", with(":protocol: websocket"), "", "reset goaway 400"},
		{"response's pseudo field", with(":status: 200"), "", "reset goaway"},
		{"expectation", with("expect: 200-ok"), "", "417 400 200 reset"},
		{"lookalikes", with("x_forwarded_for: 192.0.2.1", "content_length: 3", "transfer_encoding: chunked"), "abc", "200"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, l := tunneltest.NewMemory("web")
			u := &recordingUpstream{}
			var wg sync.WaitGroup
			wg.Go(func() { u.serve(answering{l}) })
			t.Cleanup(wg.Wait)
			t.Cleanup(func() { m.Close() })
			d := openDoor(t, names{"web.example.com": {Tunnel: m}}, nil)
			h := d.dialH2("web.example.com")
			if h.headers(1, tt.body == "", tt.fields...) == nil && tt.body != "" {
				h.WriteData(1, true, []byte(tt.body))
			}
			if got := h.outcome(1); !strings.Contains(" "+tt.want+" ", " "+got+" ") {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			for i, line := range u.requests() {
				if tt.want != "200" && !strings.Contains(tt.want, "502") && !strings.Contains(tt.want, "200") || i > 0 || strings.Contains(line, "smuggled") {
					t.Errorf("the upstream got %q", line)
				}
			}
		})
	}
}

// Streams that are opened and reset at once, and other floods, end the conn or
// are borne; they do not keep others waiting, and leave nothing behind.
func TestHTTP2Floods(t *testing.T) {
	t.Parallel()
	count := 20000
	if testing.Short() {
		count = 4000
	}
	var slow sync.WaitGroup // requests at the upstream
	t.Cleanup(slow.Wait)    // the last of it: it fails by taking forever
	d := openDoor(t, names{"web.example.com": {Tunnel: startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			slow.Add(1)
			defer slow.Done()
			if _, err := io.Copy(io.Discard, r.Body); err == nil { // net/http watches the conn from then on
				<-r.Context().Done()
			}
		}
	}))}}, nil)
	request := []string{":method: GET", ":scheme: https", ":authority: web.example.com", ":path: /slow"}
	for name, flood := range map[string]func(h *h2Conn, i int) error{
		"rapid reset": func(h *h2Conn, i int) error {
			if err := h.headers(uint32(2*i+1), true, request...); err != nil {
				return err
			}
			return h.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
		},
		"streams":  func(h *h2Conn, i int) error { return h.headers(uint32(2*i+1), true, request...) },
		"pings":    func(h *h2Conn, i int) error { return h.WritePing(false, [8]byte{}) },
		"settings": func(h *h2Conn, i int) error { return h.WriteSettings() },
		"continuations": func(h *h2Conn, i int) error {
			h.buf.Reset()
			h.enc.WriteField(hpack.HeaderField{Name: fmt.Sprintf("x-%d", i), Value: strings.Repeat("a", 100)})
			if i == 0 {
				return h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.buf.Bytes()})
			}
			return h.WriteContinuation(1, false, h.buf.Bytes())
		},
		"empty data": func(h *h2Conn, i int) error {
			if i == 0 {
				return h.headers(1, false, append([]string{":method: POST"}, request[1:]...)...)
			}
			return h.WriteData(1, false, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := d.dialH2("web.example.com")
			if name == "pings" || name == "settings" {
				// Nothing that comes back is read: what the server holds for
				// it has a bound.
				defer h.c.Close()
			} else {
				var wg sync.WaitGroup
				wg.Go(func() { io.Copy(io.Discard, h.c.r) })
				defer wg.Wait()
				defer h.c.Close()
			}
			for i := range count {
				if flood(h, i) != nil {
					break // the server has had enough
				}
			}
			start := time.Now()
			resp, err := d.visitor(nil, "h2").Get("https://web.example.com/")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if took := time.Since(start); resp.StatusCode != 200 || took > patience/2 {
				t.Errorf("a good visitor got %d after %v", resp.StatusCode, took)
			}
		})
	}
}

// A stream that nobody reads leaves room for the others of its conn.
func TestHTTP2StalledUpload(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	d := openDoor(t, names{"web.example.com": {Tunnel: startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stall" {
			<-over
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))}}, nil)
	v := d.visitor(nil, "h2")
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(over)
	for range 2 {
		r, w := io.Pipe()
		defer w.Close()
		wg.Go(func() {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			if resp, err := v.Post("https://web.example.com/stall", "text/plain", r); err == nil {
				resp.Body.Close()
			}
			r.Close()
		})
	}
	const size = 8 << 20
	resp, err := v.Post("https://web.example.com/", "text/plain", io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); string(b) != fmt.Sprint(size) {
		t.Errorf("got %q, %v, want that all %d bytes came", b, err, size)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
