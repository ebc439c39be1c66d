package ingress

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"adit/tunnel/tunneltest"
)

// A recordingUpstream notes all bytes of all streams, and answers each request
// head with an empty response.
type recordingUpstream struct {
	mu  sync.Mutex
	got bytes.Buffer
}

func (u *recordingUpstream) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			buf := make([]byte, 64<<10)
			for {
				n, err := c.Read(buf)
				u.mu.Lock()
				u.got.Write(buf[:n])
				u.mu.Unlock()
				if err != nil {
					c.Close()
					return
				}
				if bytes.Contains(buf[:n], []byte("HTTP/1.1\r\n")) {
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			}
		}()
	}
}

func (u *recordingUpstream) requests() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var lines []string
	for line := range strings.SplitSeq(u.got.String(), "\r\n") {
		if strings.HasSuffix(line, " HTTP/1.1") {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestSmuggling sends what has confused chains of HTTP servers. Whatever the
// upstream sees must be what the visitor was answered for.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	const hidden = "GET /hidden HTTP/1.1\r\nHost: web\r\n\r\n"
	for _, tt := range []struct {
		name     string
		send     string
		statuses []int    // that the visitor gets
		seen     []string // request lines that the upstream gets
		contains string   // in what the upstream gets
		lacks    string   // in what the upstream gets
	}{
		{name: "CL.TE", send: "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "TE.CL", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + hidden + "0\r\n\r\n", statuses: []int{400}},
		{name: "TE.TE obscured", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "TE with tab before colon", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "TE with vertical tab", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "TE list", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "TE folded", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "TE in 1.0", send: "POST / HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "TE named by Connection", send: "POST / HTTP/1.1\r\nHost: web\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			statuses: []int{200}, seen: []string{"POST / HTTP/1.1"}, contains: "\r\nTransfer-Encoding: chunked\r\n"},
		{name: "CL named by Connection", send: "POST / HTTP/1.1\r\nHost: web\r\nConnection: Content-Length\r\nContent-Length: 3\r\n\r\nabc",
			statuses: []int{200}, seen: []string{"POST / HTTP/1.1"}, contains: "\r\nContent-Length: 3\r\n"},
		{name: "CL with underscore", send: "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\nContent_Length: 30\r\n\r\nabc",
			statuses: []int{200}, seen: []string{"POST / HTTP/1.1"}, lacks: "Content_Length"},
		{name: "duplicate CL", send: "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\nContent-Length: 38\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "CL list", send: "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0, 38\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "CL with plus", send: "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: +38\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "GET with body", send: "GET / HTTP/1.1\r\nHost: web\r\nContent-Length: 35\r\n\r\n" + hidden + "GET /2 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n",
			statuses: []int{200, 200}, seen: []string{"GET / HTTP/1.1", "GET /hidden HTTP/1.1", "GET /2 HTTP/1.1"}, contains: "Content-Length: 35\r\n"},
		{name: "bare LF", send: "GET / HTTP/1.1\nHost: web\n\n", statuses: []int{400}},
		{name: "bare LF hides a field", send: "GET / HTTP/1.1\r\nHost: web\r\nX: a\nContent-Length: 38\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "bare CR hides a field", send: "GET / HTTP/1.1\r\nHost: web\r\nX: a\rContent-Length: 38\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "space before colon", send: "POST / HTTP/1.1\r\nHost: web\r\nContent-Length : 38\r\n\r\n" + hidden, statuses: []int{400}},
		{name: "obs-fold", send: "GET / HTTP/1.1\r\nHost: web\r\nX: a\r\n b\r\n\r\n", statuses: []int{400}},
		{name: "NUL", send: "GET / HTTP/1.1\r\nHost: web\r\nX: a\x00b\r\n\r\n", statuses: []int{400}},
		{name: "chunk size with plus", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", statuses: []int{400}},
		{name: "chunk size with 0x", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", statuses: []int{400}},
		{name: "chunk size overflow", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n100000000000000003\r\nabc\r\n0\r\n\r\n", statuses: []int{400}},
		{name: "chunk line with bare LF", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", statuses: []int{400}},
		{name: "chunk extension with bare LF", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nabc\r\n0\r\n\r\n", statuses: []int{400}},
		{name: "chunk without CRLF", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", statuses: []int{400}},
		{name: "chunk extension dropped", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=\"" + "x" + "\"\r\nabc\r\n0;y\r\n\r\n",
			statuses: []int{200}, seen: []string{"POST / HTTP/1.1"}, contains: "\r\n\r\n3\r\nabc\r\n0\r\n\r\n", lacks: "ext"},
		{name: "framing in trailer dropped", send: "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 38\r\nHost: evil\r\nX-Ok: 1\r\n\r\n",
			statuses: []int{200}, seen: []string{"POST / HTTP/1.1"}, contains: "0\r\nX-Ok: 1\r\n\r\n", lacks: "evil"},
		{name: "two hosts", send: "GET / HTTP/1.1\r\nHost: web\r\nHost: other\r\n\r\n", statuses: []int{400}},
		{name: "no host", send: "GET / HTTP/1.1\r\n\r\n", statuses: []int{400}},
		{name: "letters as port", send: "GET / HTTP/1.1\r\nHost: web:evil\r\n\r\n", statuses: []int{400}},
		{name: "markup in host", send: "GET / HTTP/1.1\r\nHost: <script>alert(1)</script>\r\n\r\n", statuses: []int{400}},
		{name: "absolute form disagrees", send: "GET http://other/ HTTP/1.1\r\nHost: web\r\n\r\n", statuses: []int{400}},
		{name: "absolute form agrees", send: "GET http://web/a?b HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n", statuses: []int{200}, seen: []string{"GET /a?b HTTP/1.1"}},
		{name: "connect", send: "CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n", statuses: []int{405}},
		{name: "HTTP/0.9", send: "GET /\r\n", statuses: []int{505}},
		{name: "HTTP/2 preface", send: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", statuses: []int{505}},
		{name: "h2c upgrade", send: "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
			statuses: []int{200}, seen: []string{"GET / HTTP/1.1"}, lacks: "pgrade"},
		{name: "method with space", send: "GET\t/ HTTP/1.1\r\nHost: web\r\n\r\n", statuses: []int{400}},
		{name: "long head", send: "GET / HTTP/1.1\r\nHost: web\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", statuses: []int{431}},
		{name: "many fields", send: "GET / HTTP/1.1\r\nHost: web\r\n" + strings.Repeat("X: a\r\n", 300) + "\r\n", statuses: []int{431}},
		{name: "long target", send: "GET /" + strings.Repeat("a", 20<<10) + " HTTP/1.1\r\nHost: web\r\n\r\n", statuses: []int{414}},
		{name: "TLS", send: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", statuses: []int{400}},
		{name: "own paths", send: "GET /_adit/x HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n", statuses: []int{404}},
		{name: "pipelined after bad", send: "GET /1 HTTP/1.1\r\nHost: web\r\n\r\nBAD\r\n\r\n" + hidden, statuses: []int{200, 400}, seen: []string{"GET /1 HTTP/1.1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, l := tunneltest.NewMemory("web")
			defer m.Close()
			u := &recordingUpstream{}
			go u.serve(l)
			_, addr := startHTTP(t, HTTPOptions{Router: always(m)})
			c := dial(t, addr)
			c.send("%s", tt.send)
			for i, want := range tt.statuses {
				resp, body := c.response("GET")
				if resp.StatusCode != want {
					t.Fatalf("response %d: %d %q, want %d", i, resp.StatusCode, body, want)
				}
				if want >= 400 && (resp.Header.Get("Adit-Error") == "" || !resp.Close && want != 404) {
					t.Errorf("response %d: Adit-Error %q, close %v; want a code and a close", i, resp.Header.Get("Adit-Error"), resp.Close)
				}
			}
			if tt.statuses[len(tt.statuses)-1] >= 400 {
				c.Conn.(*net.TCPConn).CloseWrite()
				c.closed()
			}
			if got := u.requests(); strings.Join(got, "|") != strings.Join(tt.seen, "|") {
				t.Errorf("upstream saw %q, want %q", got, tt.seen)
			}
			u.mu.Lock()
			defer u.mu.Unlock()
			if !strings.Contains(u.got.String(), tt.contains) {
				t.Errorf("upstream saw %q, want %q in it", u.got.String(), tt.contains)
			}
			if tt.lacks != "" && strings.Contains(u.got.String(), tt.lacks) {
				t.Errorf("upstream saw %q, want no %q in it", u.got.String(), tt.lacks)
			}
		})
	}
}

// TestBadResponses has upstreams that answer with what must not be passed on.
func TestBadResponses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, send string }{
		{"not HTTP", "SSH-2.0-OpenSSH\r\n"},
		{"CL and TE", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello"},
		{"differing CL", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"},
		{"TE gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"},
		{"bare CR splits", "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n"},
		{"fold", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"},
		{"101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"},
		{"head too large", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 70<<10) + "\r\n\r\n"},
		{"bad chunk at once", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"},
		{"half a head", "HTTP/1.1 200 OK\r\nX:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, l := tunneltest.NewMemory("web")
			defer m.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					c.Read(make([]byte, 4096))
					io.WriteString(c, tt.send)
					c.Close()
				}
			}()
			_, addr := startHTTP(t, HTTPOptions{Router: always(m)})
			c := dial(t, addr)
			c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
			resp, body := c.response("GET")
			if resp.StatusCode != 502 || resp.Header.Get("Adit-Error") != "upstream-bad-response" {
				t.Errorf("got %d %s %q, want 502 upstream-bad-response", resp.StatusCode, resp.Header.Get("Adit-Error"), body)
			}
		})
	}
}

// TestSurplusIsNotReused has an upstream that sends more than a response: the
// rest must not answer somebody else's request.
func TestSurplusIsNotReused(t *testing.T) {
	t.Parallel()
	for name, response := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
		"none":    "HTTP/1.1 204 No Content\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, l := tunneltest.NewMemory("web")
			defer m.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						for {
							if _, err := c.Read(make([]byte, 4096)); err != nil {
								c.Close()
								return
							}
							io.WriteString(c, response+"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
						}
					}()
				}
			}()
			_, addr := startHTTP(t, HTTPOptions{Router: always(m)})
			c := dial(t, addr)
			for i := range 3 {
				c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
				if _, body := c.response("GET"); strings.Contains(body, "evil") {
					t.Fatalf("request %d got the surplus of the one before", i)
				}
			}
		})
	}
}
