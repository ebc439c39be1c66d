package httprelay

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"adit/internal/expect"
)

// A response reaches the visitor while the upstream is still at it, and the
// upstream sees what the visitor sends when it is sent.
func TestStreams(t *testing.T) {
	t.Parallel()
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(200)
		rc.Flush()
		in := bufio.NewScanner(r.Body)
		for in.Scan() {
			fmt.Fprintf(w, "data: %s\n", in.Text())
			rc.Flush()
		}
	}))
	at := relay(t, addr, nil)
	pr, pw := io.Pipe()
	defer pw.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+at+"/", pr)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport(t, true).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out := bufio.NewReader(resp.Body)
	for i := range 3 {
		fmt.Fprintf(pw, "event %d\n", i)
		if line, err := out.ReadString('\n'); err != nil || line != fmt.Sprintf("data: event %d\n", i) {
			t.Fatalf("got %q, %v", line, err)
		}
	}
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
		w.Header().Set("Grpc-Status", "0 "+r.Trailer.Get("X-Sum"))
		w.Header().Set(http.TrailerPrefix+"Late", "yes")
	}))
	at := relay(t, addr, nil)
	for _, http2 := range []bool{false, true} {
		req, err := http.NewRequest("POST", "http://"+at+"/", io.MultiReader(strings.NewReader("hello")))
		if err != nil {
			t.Fatal(err)
		}
		req.Trailer = http.Header{"X-Sum": {"5"}}
		req.Header.Set("TE", "trailers")
		resp, err := transport(t, http2).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != "hello" || resp.Trailer.Get("Grpc-Status") != "0 5" || resp.Trailer.Get("Late") != "yes" {
			t.Errorf("HTTP/2 %v: got %q %q, %v", http2, body, resp.Trailer, err)
		}
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Accept holds Origin to Host: both have to be the upstream's.
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			c.Write(r.Context(), kind, b)
		}
	}))
	at := relay(t, addr, func(o *Options) {
		o.Scheme, o.Host = "http", "localhost:3000"
		o.Response = rules(t, []string{"X-Rule: yes"}, nil)
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, "ws://"+at+"/", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://" + at}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if got := resp.Header.Get("X-Rule"); got != "yes" {
		t.Errorf("rule for responses: got %q in the handshake", got)
	}
	for i := range 3 {
		want := fmt.Sprint("message ", i)
		if err := c.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
	c.Close(websocket.StatusNormalClosure, "")
	if _, _, err := websocket.Dial(ctx, "ws://"+at+"/", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://evil.example"}}}); err == nil {
		t.Error("a page of another origin may open a WebSocket")
	}
}

func TestInterimAndExpect(t *testing.T) {
	t.Parallel()
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	got := exchange(t, relay(t, addr, nil), "POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
	if !strings.Contains(got, "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n") || !strings.HasSuffix(got, "\r\n\r\n5") {
		t.Errorf("got %q", got)
	}
}

// An upstream that never says 100 Continue makes one visitor wait, and not each.
func TestExpectInVain(t *testing.T) {
	t.Parallel()
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.CopyN(io.Discard, rw, 5)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
	}))
	at := relay(t, addr, nil)
	began := time.Now()
	const requests = 5
	for range requests {
		got := exchange(t, at, "POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
		if !strings.HasSuffix(got, "\r\n\r\nok") {
			t.Errorf("got %q, want the upstream's answer", got)
		}
	}
	if took := time.Since(began); took > requests*expect.Wait/2 {
		t.Errorf("%d requests took %v, want little more than %v", requests, took, expect.Wait)
	}
}

// A response that breaks off does not pass for whole.
func TestBrokenOff(t *testing.T) {
	t.Parallel()
	addr, _ := scripted(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	req, err := http.NewRequest("GET", "http://"+relay(t, addr, nil)+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport(t, false).RoundTrip(req)
	if err != nil {
		return // it broke off that soon
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("got %q as if it were whole", b)
	}
}

// An upstream hears when the visitor leaves.
func TestVisitorLeaves(t *testing.T) {
	t.Parallel()
	begun, gone := make(chan struct{}), make(chan struct{})
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		close(gone)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+relay(t, addr, nil)+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := transport(t, false).RoundTrip(req); err == nil {
			resp.Body.Close()
		}
	}()
	<-begun
	cancel()
	<-done
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the upstream was not told")
	}
}
