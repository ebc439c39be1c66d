package carrier_test

import (
	"bufio"
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"adit/carrier"
)

var discard = log.New(io.Discard, "", 0)

const goodRequest = "GET /x HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// ask sends a request and returns the answer, with what follows it.
func ask(t *testing.T, addr, request string) (*http.Response, net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	io.WriteString(c, request)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp, c, br
}

func TestAcceptRefuses(t *testing.T) {
	t.Parallel()
	replace := func(old, new string) string { return strings.Replace(goodRequest, old, new, 1) + "\r\n" }
	for _, tt := range []struct {
		name    string
		request string
		status  int
		want    string // in the body
		header  string // in the answer, "Name: value"
	}{
		{name: "POST", request: replace("GET", "POST"), status: 405, want: "must be GET", header: "Allow: GET"},
		{name: "HTTP/1.0", request: replace("HTTP/1.1", "HTTP/1.0"), status: 426, want: "needs HTTP/1.1"},
		{name: "no upgrade", request: replace("Upgrade: websocket\r\n", ""), status: 426, want: "Upgrade: websocket", header: "Upgrade: websocket"},
		{name: "another upgrade", request: replace("websocket", "h2c"), status: 426, want: "Upgrade: websocket"},
		{name: "no connection", request: replace("Connection: keep-alive, Upgrade\r\n", ""), status: 426, want: "Connection: Upgrade"},
		{name: "old version", request: replace(": 13", ": 8"), status: 426, want: "must be 13", header: "Sec-WebSocket-Version: 13"},
		{name: "no version", request: replace("Sec-WebSocket-Version: 13\r\n", ""), status: 426, want: "must be 13"},
		{name: "no key", request: replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), status: 400, want: "Sec-WebSocket-Key"},
		{name: "short key", request: replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="), status: 400, want: "Sec-WebSocket-Key"},
		{name: "key not in base64", request: replace("dGhlIHNhbXBsZSBub25jZQ==", "!"), status: 400, want: "Sec-WebSocket-Key"},
		{name: "two keys", request: replace("Host: test\r\n", "Host: test\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), status: 400, want: "there once"},
		{name: "body", request: replace("Host: test\r\n", "Host: test\r\nContent-Length: 1\r\n") + "x", status: 400, want: "body"},
		{name: "chunked body", request: replace("Host: test\r\n", "Host: test\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", status: 400, want: "body"},
		{name: "browser", request: replace("Host: test\r\n", "Host: test\r\nOrigin: https://evil.test\r\n"), status: 403, want: "origin"},
		{name: "browser without origin", request: replace("Host: test\r\n", "Host: test\r\nOrigin: null\r\n"), status: 403, want: "origin"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			result := make(chan error, 1)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, err := carrier.Accept(w, r, carrier.AcceptOptions{})
				result <- err
			}))
			defer srv.Close()
			resp, _, _ := ask(t, srv.Listener.Addr().String(), tt.request)
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.want) {
				t.Errorf("answer is %d, %q; want %d and %q", resp.StatusCode, body, tt.status, tt.want)
			}
			if name, value, ok := strings.Cut(tt.header, ": "); ok && resp.Header.Get(name) != value {
				t.Errorf("answer has %s %q, want %q", name, resp.Header.Get(name), value)
			}
			if err := <-result; err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Accept = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestAcceptHTTP2(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := carrier.Accept(w, r, carrier.AcceptOptions{}); err == nil {
			t.Error("Accept of an HTTP/2 request succeeded")
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("answer is %s %d, want HTTP/2 426", resp.Proto, resp.StatusCode)
	}
}

func TestAcceptOptions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		opts    carrier.AcceptOptions
		request string // more header lines
		header  http.Header
	}{
		{name: "plain"},
		{name: "sample of RFC 6455", header: http.Header{"Sec-Websocket-Accept": {"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}}},
		{name: "allowed origin", opts: carrier.AcceptOptions{CheckOrigin: func(r *http.Request) bool {
			return r.Header.Get("Origin") == "https://good.test"
		}}, request: "Origin: https://good.test\r\n"},
		{name: "subprotocol", opts: carrier.AcceptOptions{Subprotocol: "adit.v1"},
			request: "Sec-WebSocket-Protocol: chat, adit.v1\r\n", header: http.Header{"Sec-Websocket-Protocol": {"adit.v1"}}},
		{name: "subprotocol in another case", opts: carrier.AcceptOptions{Subprotocol: "adit.v1"},
			request: "Sec-WebSocket-Protocol: Adit.V1\r\n", header: http.Header{"Sec-Websocket-Protocol": nil}},
		{name: "subprotocol not offered", opts: carrier.AcceptOptions{Subprotocol: "adit.v1"}, header: http.Header{"Sec-Websocket-Protocol": nil}},
		{name: "header", opts: carrier.AcceptOptions{Header: http.Header{"X-Node": {"a\r\nX-Evil: b"}}},
			header: http.Header{"X-Node": {"a  X-Evil: b"}, "X-Evil": nil}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, conns := acceptAll(t, tt.opts)
			srv := httptest.NewServer(h)
			defer srv.Close()
			// The first message comes right behind the head.
			resp, peer, br := ask(t, srv.Listener.Addr().String(), goodRequest+tt.request+"\r\n"+"\x82\x85\x00\x00\x00\x00early")
			if resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("answer is %d, want 101", resp.StatusCode)
			}
			for name, want := range tt.header {
				if got := resp.Header[name]; !slices.Equal(got, want) {
					t.Errorf("answer has %s %q, want %q", name, got, want)
				}
			}
			c := <-conns
			defer c.Close()
			got := make([]byte, 5)
			if _, err := io.ReadFull(c, got); err != nil || string(got) != "early" {
				t.Errorf("read %q, %v; want early", got, err)
			}
			io.WriteString(c, "answer")
			got = make([]byte, 8)
			if _, err := io.ReadFull(br, got); err != nil || !bytes.Equal(got, []byte("\x82\x06answer")) {
				t.Errorf("peer got %q, %v; want a message", got, err)
			}
			peer.Close()
			if _, err := c.Read(got); err != io.EOF {
				t.Errorf("Read = %v, want EOF", err)
			}
		})
	}
}

// The time limits of the HTTP server must not end a WebSocket.
func TestAcceptServerDeadlines(t *testing.T) {
	t.Parallel()
	const limit = 100 * time.Millisecond
	h, conns := acceptAll(t, carrier.AcceptOptions{})
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ReadTimeout = limit
	srv.Config.WriteTimeout = limit
	srv.Start()
	defer srv.Close()
	_, peer, br := ask(t, srv.Listener.Addr().String(), goodRequest+"\r\n")
	c := <-conns
	defer c.Close()
	done := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(c, make([]byte, 4)) // blocks beyond the limits
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("Read = %v before anything was sent", err)
	case <-time.After(2 * limit): // both limits have passed
	}
	io.WriteString(peer, "\x82\x84\x00\x00\x00\x00late")
	if err := <-done; err != nil {
		t.Errorf("Read = %v", err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("Write = %v", err)
	}
	if _, err := br.ReadByte(); err != nil {
		t.Error(err)
	}
}
