package ingress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"adit/internal/memnet"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// acceptStream is the agent's end of a site whose upstream the test plays.
func acceptStream(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	ch := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			c.(tunnel.Incoming).Accept()
			ch <- c
		}
	}()
	c := wait(t, "a stream", ch)
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// rawSite is an ingress whose upstream the test plays.
func rawSite(t testing.TB, change ...func(*HTTPOptions)) (addr string, l net.Listener) {
	t.Helper()
	m, l := tunneltest.NewMemory("web")
	t.Cleanup(func() { m.Close() })
	opts := HTTPOptions{Router: always(m)}
	for _, f := range change {
		f(&opts)
	}
	_, addr = startHTTP(t, opts)
	return addr, l
}

// readUntil reads from c until the bytes end with suffix.
func readUntil(t testing.TB, c io.Reader, suffix string) string {
	t.Helper()
	var got []byte
	buf := make([]byte, 1)
	for !bytes.HasSuffix(got, []byte(suffix)) {
		if _, err := c.Read(buf); err != nil {
			t.Fatalf("read %q, %v; want it to end with %q", got, err, suffix)
		}
		got = append(got, buf[0])
	}
	return string(got)
}

func TestServerSentEvents(t *testing.T) {
	t.Parallel()
	next := make(chan string)
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		for event := range next {
			fmt.Fprintf(w, "data: %s\n\n", event)
			w.(http.Flusher).Flush()
		}
	})
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	resp, err := http.ReadResponse(c.r, nil) // the head comes before any event
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		event := fmt.Sprintf("data: %d\n\n", i)
		next <- fmt.Sprint(i)
		got := make([]byte, len(event))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != event {
			t.Fatalf("got %q, %v; want %q", got, err, event)
		}
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Errorf("rest %q, %v", rest, err)
	}
	c.send("GET /_adit/ HTTP/1.1\r\nHost: web\r\n\r\n") // the conn goes on
	if resp, _ := c.response("GET"); resp.StatusCode != 404 {
		t.Errorf("request after the stream: %d", resp.StatusCode)
	}
}

func TestUploadStreams(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, framing, first, rest string }{
		{"length", "Content-Length: 6", "abc", "def"},
		{"chunked", "Transfer-Encoding: chunked", "3\r\nabc\r\n", "3\r\ndef\r\n0\r\nX-Sum: 6\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr, l := rawSite(t)
			c := dial(t, addr)
			c.send("POST / HTTP/1.1\r\nHost: web\r\n%s\r\n\r\n", tt.framing)
			up := acceptStream(t, l)
			readUntil(t, up, "\r\n\r\n")
			// Both directions at once: the answer begins before the body.
			io.WriteString(up, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n12")
			readUntil(t, c.r, "\r\n\r\n12")
			c.send("%s", tt.first)
			if got := readUntil(t, up, "abc"); tt.name == "length" && got != "abc" {
				t.Errorf("upstream got %q, want abc", got)
			}
			c.send("%s", tt.rest)
			readUntil(t, up, tt.rest)
			io.WriteString(up, "34")
			c.expect("34")
		})
	}
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Out")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		io.WriteString(w, r.Trailer.Get("X-In"))
		w.Header().Set("X-Out", "bye")
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	})
	c := dial(t, addr)
	c.send("POST / HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nTrailer: X-In\r\nTransfer-Encoding: chunked\r\n\r\n")
	c.send("3\r\nabc\r\n0\r\nX-In: hello\r\n\r\n")
	resp, body := c.response("POST")
	if body != "hello" || resp.Trailer.Get("X-Out") != "bye" || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("body %q trailer %v; want hello, X-Out bye, Grpc-Status 0", body, resp.Trailer)
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.Header().Set("Connection", "close")
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		body, _ := io.ReadAll(r.Body) // net/http sends 100 Continue now
		w.Write(body)
	})
	c := dial(t, addr)
	c.send("POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	c.expect("HTTP/1.1 100 Continue\r\n\r\n")
	c.send("hello")
	if resp, body := c.response("POST"); resp.StatusCode != 200 || body != "hello" {
		t.Errorf("got %d %q, want 200 hello", resp.StatusCode, body)
	}
	c.send("POST /no HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if resp, _ := c.response("POST"); resp.StatusCode != 403 || !resp.Close {
		t.Errorf("refused: %d close %v, want 403 and close", resp.StatusCode, resp.Close)
	}
}

func TestEarlyHints(t *testing.T) {
	t.Parallel()
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(103)
		w.WriteHeader(103)
		io.WriteString(w, "done")
	})
	c := dial(t, addr)
	c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	for range 2 {
		c.expect("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
	}
	if resp, body := c.response("GET"); resp.StatusCode != 200 || body != "done" {
		t.Errorf("got %d %q, want 200 done", resp.StatusCode, body)
	}
	c = dial(t, addr)
	c.send("GET / HTTP/1.0\r\nHost: web\r\n\r\n")
	if resp, body := c.response("GET"); resp.StatusCode != 200 || body != "done" {
		t.Errorf("HTTP/1.0: got %d %q, want 200 done without 103", resp.StatusCode, body)
	}
}

func TestEarlyAnswerToUpload(t *testing.T) {
	t.Parallel()
	addr, l := rawSite(t)
	c := dial(t, addr)
	c.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 100000000\r\n\r\n")
	c.send("%s", strings.Repeat("x", 100000))
	up := acceptStream(t, l)
	readUntil(t, up, "\r\n\r\n")
	io.WriteString(up, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
	// The visitor goes on sending while the answer is on its way.
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, 4<<20))
		sent <- err
	}()
	resp, body := c.response("POST")
	if resp.StatusCode != 413 || body != "big" || !resp.Close {
		t.Errorf("got %d %q close %v, want 413 big true", resp.StatusCode, body, resp.Close)
	}
	if err := wait(t, "the upload", sent); err != nil {
		t.Errorf("upload after the answer: %v; want it to be read away", err)
	}
	if _, err := io.Copy(io.Discard, up); err == nil {
		t.Error("the upstream's stream ended cleanly in the middle of a body")
	}
}

func TestShortResponseIsAborted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, version, head string }{
		{"length", "1.1", "Content-Length: 10\r\n"},
		{"chunked", "1.1", "Transfer-Encoding: chunked\r\n"},
		{"chunked to 1.0", "1.0", "Transfer-Encoding: chunked\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr, l := rawSite(t)
			c := dial(t, addr)
			c.send("GET / HTTP/%s\r\nHost: web\r\n\r\n", tt.version)
			up := acceptStream(t, l)
			readUntil(t, up, "\r\n\r\n")
			io.WriteString(up, "HTTP/1.1 200 OK\r\n"+tt.head+"\r\n5\r\nab")
			readUntil(t, c.r, "ab")
			up.Close()
			rest, err := io.ReadAll(c.r)
			if err == nil && tt.version == "1.0" {
				t.Error("a response that broke off ends as if it were whole")
			}
			if strings.Contains(string(rest), "0\r\n") {
				t.Errorf("rest %q ends the body", rest)
			}
			if isTimeout(err) {
				t.Error("the conn stays open")
			}
		})
	}
}

func TestCloseDelimited(t *testing.T) {
	t.Parallel()
	addr, l := rawSite(t)
	c := dial(t, addr)
	for i := range 2 {
		c.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n")
		up := acceptStream(t, l)
		readUntil(t, up, "\r\n\r\n")
		fmt.Fprintf(up, "HTTP/1.0 200 OK\r\n\r\nfirst")
		fmt.Fprintf(up, " and %d", i)
		up.Close()
		if resp, body := c.response("GET"); body != fmt.Sprintf("first and %d", i) || resp.Close {
			t.Errorf("got %q close %v", body, resp.Close)
		}
	}
	c = dial(t, addr)
	c.send("GET / HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n\r\n")
	up := acceptStream(t, l)
	readUntil(t, up, "\r\n\r\n")
	io.WriteString(up, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall")
	up.Close()
	if resp, body := c.response("GET"); body != "all" || !resp.Close {
		t.Errorf("HTTP/1.0: got %q close %v", body, resp.Close)
	}
	c.closed()
}

func TestLargeBodies(t *testing.T) {
	t.Parallel()
	const size = 3<<20 + 12345
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i >> 8 * i)
	}
	want := sha256.Sum256(data)
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if got := sha256.Sum256(body); err != nil || got != want {
			t.Errorf("upstream got %d bytes, %v; not those that were sent", len(body), err)
		}
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		w.Write(body)
	})
	c := dial(t, addr)
	go func() {
		c.send("PUT /length HTTP/1.1\r\nHost: web\r\nContent-Length: %d\r\n\r\n", size)
		c.Write(data)
	}()
	if _, body := c.response("PUT"); sha256.Sum256([]byte(body)) != want {
		t.Errorf("length: visitor got %d bytes, not those that were sent", len(body))
	}
	c.send("GET /_adit/ HTTP/1.1\r\nHost: web\r\n\r\n")
	c.response("GET")
	go func() {
		c.send("PUT /chunked HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n")
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 1+len(rest)%50000)
			fmt.Fprintf(c, "%x;x\r\n%s\r\n", n, rest[:n])
			rest = rest[n:]
		}
		c.send("0\r\n\r\n")
	}()
	if _, body := c.response("PUT"); sha256.Sum256([]byte(body)) != want {
		t.Errorf("chunked: visitor got %d bytes, not those that were sent", len(body))
	}
}

func TestVisitorLeaves(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, send, answer string }{
		{"while waiting", "GET / HTTP/1.1\r\nHost: web\r\n\r\n", ""},
		{"during the response", "GET / HTTP/1.1\r\nHost: web\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nsome"},
		{"during the upload", "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nab", ""},
		{"after the upload", "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			done := make(chan Finished, 1)
			addr, l := rawSite(t, func(o *HTTPOptions) { o.OnRequest = func(f Finished) { done <- f } })
			c := dial(t, addr)
			go c.send("%s", tt.send)
			up := acceptStream(t, l)
			readUntil(t, up, "\r\n\r\n")
			if tt.answer != "" {
				io.WriteString(up, tt.answer)
				readUntil(t, c.r, "some")
			}
			if tt.name == "after the upload" {
				if _, err := io.CopyN(io.Discard, up, 100000); err != nil {
					t.Fatal(err)
				}
			}
			c.Close()
			if n, err := io.Copy(io.Discard, up); err == nil || isTimeout(err) {
				t.Errorf("after the visitor left the stream yields %d bytes, %v; want a reset", n, err)
			}
			f := wait(t, "OnRequest", done)
			if f.Code != "visitor-left" || tt.answer == "" && f.Status != 499 {
				t.Errorf("reported as %d %q, want visitor-left", f.Status, f.Code)
			}
		})
	}
}

// TestPipelinedBehindWatch sends the next request while the first one waits
// for so long that the visitor is watched.
func TestPipelinedBehindWatch(t *testing.T) {
	t.Parallel()
	addr, l := rawSite(t)
	c := dial(t, addr)
	c.send("GET /1 HTTP/1.1\r\nHost: web\r\n\r\n")
	up := acceptStream(t, l)
	readUntil(t, up, "\r\n\r\n")
	slow := time.After(3 * watchDelay)
	c.send("GET /2 HTTP/1.1\r\nHost: web\r\n\r\nGET /3 HTTP/1.1\r\nHost: web\r\n\r\n")
	<-slow // so that the watch has begun
	for i := 1; i <= 3; i++ {
		if i > 1 {
			if got := readUntil(t, up, "\r\n\r\n"); !strings.HasPrefix(got, fmt.Sprintf("GET /%d HTTP/1.1\r\n", i)) {
				t.Fatalf("request %d: upstream got %q", i, got)
			}
		}
		fmt.Fprintf(up, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", i)
		if _, body := c.response("GET"); body != fmt.Sprint(i) {
			t.Fatalf("response %d: %q", i, body)
		}
	}
}

// TestTLSVisitor pipelines behind a slow response, as above, over a conn whose
// bytes do not wait in a socket.
func TestTLSVisitor(t *testing.T) {
	t.Parallel()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	m, up := tunneltest.NewMemory("web")
	defer m.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: cert.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	startOn(t, HTTPOptions{Router: always(m), Scheme: "https"}, l)
	tc, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: cert.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer tc.Close()
	tc.SetDeadline(time.Now().Add(patience))
	c := &rawConn{tc, t, bufio.NewReader(tc)}
	c.send("GET /1 HTTP/1.1\r\nHost: web\r\n\r\n")
	s := acceptStream(t, up)
	if got := readUntil(t, s, "\r\n\r\n"); !strings.Contains(got, "X-Forwarded-Proto: https\r\n") {
		t.Errorf("upstream got %q", got)
	}
	slow := time.After(3 * watchDelay)
	c.send("GET /2 HTTP/1.1\r\nHost: web\r\n\r\n")
	<-slow
	for i := 1; i <= 2; i++ {
		fmt.Fprintf(s, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", i)
		if _, body := c.response("GET"); body != fmt.Sprint(i) {
			t.Fatalf("response %d: %q", i, body)
		}
		if i == 1 {
			readUntil(t, s, "\r\n\r\n")
		}
	}
	c.send("GET /3 HTTP/1.1\r\nHost: web\r\n\r\n")
	readUntil(t, s, "\r\n\r\n")
	tc.Close()
	if _, err := io.Copy(io.Discard, s); err == nil || isTimeout(err) {
		t.Errorf("after the visitor left the stream yields %v, want a reset", err)
	}
}

// TestMemoryVisitor has a conn that is no socket, such as one of TLS.
func TestMemoryVisitor(t *testing.T) {
	t.Parallel()
	m := startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.URL, body)
	}))
	l := memnet.Listen("front")
	startOn(t, HTTPOptions{Router: always(m)}, l)
	conn, err := l.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hc := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
	defer hc.CloseIdleConnections()
	resp, err := hc.Post("http://web/a", "text/plain", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "/a body" {
		t.Errorf("got %q", body)
	}
}
