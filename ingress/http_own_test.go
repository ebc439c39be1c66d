package ingress

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"adit/tunnel"
)

func TestOwn(t *testing.T) {
	t.Parallel()
	hijacked := make(chan net.Conn, 1)
	own := func(r *http.Request) http.Handler {
		if r.RemoteAddr == "" || r.Body == nil {
			t.Errorf("Own got %+v", r)
		}
		switch {
		case r.URL.Path == "/_adit/echo":
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "own %s %s", r.Method, body)
			})
		case r.Header.Get("Upgrade") == "adit":
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c, rw, err := w.(http.Hijacker).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				rest := make([]byte, rw.Reader.Buffered())
				io.ReadFull(rw.Reader, rest)
				fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: adit\r\n\r\n%s", rest)
				hijacked <- c
			})
		}
		return nil
	}
	m := startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "site "+r.URL.Path) }))
	h, addr := startHTTP(t, HTTPOptions{Router: always(m), Own: own, MaxVisitors: 2})

	c := dial(t, addr)
	c.send("GET /1 HTTP/1.1\r\nHost: web\r\n\r\n")
	if _, body := c.response("GET"); body != "site /1" {
		t.Errorf("before: got %q", body)
	}
	// One conn carries requests for the server and for a site by turns.
	c.send("POST /_adit/echo HTTP/1.1\r\nHost: any\r\nContent-Length: 3\r\n\r\nabc" + "GET /2 HTTP/1.1\r\nHost: web\r\n\r\n")
	for _, want := range []string{"own POST abc", "site /2"} {
		if _, body := c.response("GET"); body != want {
			t.Errorf("got %q, want %q", body, want)
		}
	}
	c.send("GET /_adit/other HTTP/1.1\r\nHost: web\r\n\r\n")
	if resp, _ := c.response("GET"); resp.StatusCode != 404 || resp.Header.Get("Adit-Error") != "not-found" {
		t.Errorf("unknown path: %d %s", resp.StatusCode, resp.Header.Get("Adit-Error"))
	}
	c.send("POST /_adit/echo HTTP/1.1\r\nHost: any\r\nContent-Length: 1\r\n\r\nx")
	if _, body := c.response("GET"); body != "own POST x" {
		t.Errorf("second request for the server: got %q", body)
	}
	c.Close()

	// Hijacked conns are nobody's but the handler's.
	for i := range 5 { // more than MaxVisitors: they do not count
		a := dial(t, addr)
		a.send("GET /x HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: adit\r\n\r\nearly%d", i)
		conn := wait(t, "the hijacked conn", hijacked)
		defer conn.Close()
		if _, ok := conn.(*net.TCPConn); !ok {
			t.Errorf("hijacked a %T, want the *net.TCPConn itself", conn)
		}
		if got := readUntil(t, a.r, fmt.Sprintf("early%d", i)); !strings.HasPrefix(got, "HTTP/1.1 101 ") {
			t.Errorf("got %q", got)
		}
		if i == 0 {
			defer func() {
				if err := h.Shutdown(context.Background()); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
				h.Close()
				conn.Write([]byte("still here")) // Close leaves it alone
				a.expect("still here")
			}()
		}
	}
	// An upgrade that is not the server's goes to the site.
	u := dial(t, addr)
	u.send("GET /3 HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
	if _, body := u.response("GET"); body != "site /3" {
		t.Errorf("another upgrade: got %q", body)
	}
}

// In the fallback, too, it is the upstream that says 100 Continue, if anybody.
func TestExpectContinueInFallback(t *testing.T) {
	t.Parallel()
	m := startUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.Header().Set("Connection", "close")
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		w.WriteHeader(http.StatusEarlyHints)
		body, _ := io.ReadAll(r.Body) // net/http sends 100 Continue now
		w.Write(body)
	}))
	own := func(r *http.Request) http.Handler {
		if r.URL.Path != "/_adit/own" {
			return nil
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "own") })
	}
	_, addr := startHTTP(t, HTTPOptions{Router: always(m), Own: own})
	c := dial(t, addr)
	c.send("GET /_adit/own HTTP/1.1\r\nHost: any\r\n\r\n") // the conn is package net/http's from now on
	c.response("GET")
	c.send("POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	c.expect("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
	c.send("hello")
	if resp, body := c.response("POST"); resp.StatusCode != 200 || body != "hello" {
		t.Errorf("got %d %q, want 200 hello", resp.StatusCode, body)
	}
	c.send("POST /no HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if resp, _ := c.response("POST"); resp.StatusCode != 403 || !resp.Close {
		t.Errorf("refused: %d close %v, want 403 and close", resp.StatusCode, resp.Close)
	}
}

// A messageTunnel carries HTTP messages and no streams.
type messageTunnel struct{ tunnel.Tunnel }

func (messageTunnel) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	text := fmt.Sprintf("HTTP/1.1 200 OK\r\nAdit-Error: fake\r\nLocation: /a\r\nSet-Cookie: a=b; Path=/\r\n\r\n%s %s %s %s %s",
		r.Method, r.URL.RequestURI(), r.Host, r.Header.Get("X-Forwarded-For"), body)
	return http.ReadResponse(bufio.NewReader(strings.NewReader(text)), r)
}

func TestMessageTunnel(t *testing.T) {
	t.Parallel()
	done := make(chan Finished, 8)
	m := startUpstream(t, http.NotFoundHandler())
	_, addr := startHTTP(t, HTTPOptions{Router: always(messageTunnel{m}), PathMode: true, OnRequest: func(f Finished) { done <- f }})
	c := dial(t, addr)
	c.send("POST /a%2fb?c HTTP/1.1\r\nHost: web\r\nX-Forwarded-For: 1.2.3.4\r\nContent-Length: 3\r\n\r\nabc")
	resp, body := c.response("POST")
	if body != "POST /a%2fb?c web 127.0.0.1 abc" || resp.Header.Get("Adit-Error") != "" || resp.Header.Get("Location") != "/a" {
		t.Errorf("got %q %v", body, resp.Header)
	}
	if f := wait(t, "OnRequest", done); f.Status != 200 || f.Received != 3 || f.Sent != int64(len(body)) || f.ID != "web" {
		t.Errorf("reported %+v", f)
	}
	c.send("GET /web/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	resp, body = c.response("GET")
	if body != "GET /x 127.0.0.1 127.0.0.1 " || resp.Header.Get("Location") != "/web/a" || resp.Header.Get("Set-Cookie") != "a=b; Path=/web/" {
		t.Errorf("path mode: got %q %v", body, resp.Header)
	}
	c.send("GET /x HTTP/1.1\r\nHost: nobody\r\n\r\n")
	if resp, _ := c.response("GET"); resp.StatusCode != 404 || resp.Header.Get("Adit-Error") != "unknown-name" {
		t.Errorf("unknown name: %d %v", resp.StatusCode, resp.Header)
	}
}
