package http1

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"
)

func parseResponse(raw []byte, r *Response, method string) (n int, err error) {
	var s Scanner
	if n, err = s.Response(raw); err != nil || n == 0 {
		return n, err
	}
	return n, r.Parse(raw[:n], []byte(method), Limits{})
}

func TestResponse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, method, raw string
		err               error
		status            int
		framing           Framing
		length            int64
		keep              bool
	}{
		{name: "length", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", status: 200, framing: Length, length: 5, keep: true},
		{name: "zero length", raw: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200, keep: true},
		{name: "no reason", raw: "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", status: 200, keep: true},
		{name: "empty reason", raw: "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", status: 200, keep: true},
		{name: "chunked", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", status: 200, framing: Chunked, keep: true},
		{name: "until close", raw: "HTTP/1.1 200 OK\r\n\r\n", status: 200, framing: UntilClose},
		{name: "head", method: "HEAD", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", status: 200, keep: true},
		{name: "head until close", method: "HEAD", raw: "HTTP/1.1 200 OK\r\n\r\n", status: 200, keep: true},
		{name: "204", raw: "HTTP/1.1 204 No Content\r\n\r\n", status: 204, keep: true},
		{name: "304", raw: "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", status: 304, keep: true},
		{name: "1.0", raw: "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", status: 200, framing: Length, length: 5},
		{name: "1.0 keep-alive", raw: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", status: 200, framing: Length, length: 5, keep: true},
		{name: "close", raw: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", status: 200, framing: Length, length: 5},
		{name: "equal lengths", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", status: 200, framing: Length, length: 5, keep: true},
		{name: "differing lengths", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", err: ErrManyLengths},
		{name: "length and coding", raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", err: ErrLengthAndCoding},
		{name: "coding gzip", raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", err: ErrCoding},
		{name: "coding in 1.0", raw: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", err: ErrCodingIn10},
		{name: "bare LF", raw: "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n", err: ErrBareLF},
		{name: "fold", raw: "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", err: ErrFold},
		{name: "not HTTP", raw: "SSH-2.0-x\r\n", err: ErrFirstLine},
		{name: "version 2", raw: "HTTP/2.0 200 OK\r\n\r\n", err: ErrVersion},
		{name: "status of two digits", raw: "HTTP/1.1 20 OK\r\n\r\n", err: ErrStatus},
		{name: "status of four digits", raw: "HTTP/1.1 2000 OK\r\n\r\n", err: ErrStatus},
		{name: "status below 100", raw: "HTTP/1.1 099 OK\r\n\r\n", err: ErrStatus},
		{name: "control in reason", raw: "HTTP/1.1 200 O\x01K\r\n\r\n", err: ErrReason},
		{name: "CR in reason", raw: "HTTP/1.1 200 O\rK\r\n\r\n", err: ErrReason},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var r Response
			_, err := parseResponse([]byte(tt.raw), &r, tt.method)
			if err != tt.err {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if err == nil && (r.Status != tt.status || r.Framing != tt.framing || r.Length != tt.length || r.KeepAlive != tt.keep) {
				t.Errorf("status %d framing %d length %d keep-alive %v; want %d %d %d %v",
					r.Status, r.Framing, r.Length, r.KeepAlive, tt.status, tt.framing, tt.length, tt.keep)
			}
		})
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))
	f.Add([]byte("HTTP/1.0 302\r\nConnection: keep-alive, x\r\nLocation: /\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r Response
		n, err := parseResponse(raw, &r, "GET")
		if err != nil || n == 0 || r.Status < 200 {
			return
		}
		p, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), nil)
		if err != nil {
			if strings.Contains(err.Error(), "trailer") {
				return
			}
			t.Fatalf("net/http refuses %q: %v", raw, err)
		}
		if p.StatusCode != r.Status {
			t.Errorf("status %d, net/http sees %d", r.Status, p.StatusCode)
		}
		chunked := len(p.TransferEncoding) == 1
		if chunked != (r.Framing == Chunked) && r.Status != 204 && r.Status != 304 {
			t.Errorf("framing %d, net/http sees chunked=%v", r.Framing, chunked)
		}
		if r.Framing == Length && p.ContentLength != r.Length {
			t.Errorf("length %d, net/http sees %d", r.Length, p.ContentLength)
		}
	})
}
