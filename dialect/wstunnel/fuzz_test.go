package wstunnel

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"adit/internal/wsframe"
)

// seed adds the recorded files of a kind.
func seed(f *testing.F, pattern string) {
	files, err := filepath.Glob("testdata/" + pattern)
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds %s: %v", pattern, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// FuzzReader feeds frames to a reader: it ends, and yields no more than came.
func FuzzReader(f *testing.F) {
	seed(f, "*.frame")
	f.Add([]byte("\x02\x03000\x00\x021G\x80\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, client := range []bool{false, true} {
			conn, far := net.Pipe()
			defer conn.Close()
			defer far.Close()
			r := &wsReader{
				c: conn, br: bufio.NewReader(bytes.NewReader(in)), client: client,
				limit:  func() time.Duration { return time.Minute },
				onCtrl: func(op byte, p []byte) {},
			}
			total := 0
			for r.next() == nil {
				r.readID()
				n, err := io.Copy(io.Discard, r)
				if total += int(n); total > len(in) {
					t.Fatalf("%d bytes of payload from %d", total, len(in))
				}
				if err != nil {
					break
				}
			}
		}
	})
}

// FuzzFrames holds the writer and the reader to each other.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("0001GET / HTTP/1.1\r\n\r\n"), true, uint16(5))
	f.Fuzz(func(t *testing.T, payload []byte, client bool, cut uint16) {
		at := min(int(cut), len(payload))
		var b []byte
		b = appendFrame(b, wsframe.Binary, false, payload[:at], client)
		b = appendFrame(b, wsframe.Ping, true, []byte("p"), client)
		b = appendFrame(b, wsframe.Continuation, true, payload[at:], client)
		b = appendFrame2(b, payload[:at], payload[at:], client)
		conn, far := net.Pipe()
		defer conn.Close()
		defer far.Close()
		r := &wsReader{c: conn, br: bufio.NewReader(bytes.NewReader(b)), client: !client, limit: func() time.Duration { return time.Minute }, onCtrl: func(byte, []byte) {}}
		for range 2 {
			if err := r.next(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, payload) {
				t.Fatalf("got %q, %v; want %q", got, err, payload)
			}
		}
	})
}

// FuzzID holds to four digits of which nothing is dropped.
func FuzzID(f *testing.F) {
	f.Add([]byte("0001"))
	f.Add([]byte("7FFF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := parseID(b)
		if err == nil && string(putID(nil, id)) != strings.ToLower(string(b)) {
			t.Fatalf("%q became %04x", b, id)
		}
		if err == nil && id > maxID {
			t.Fatalf("%q is taken", b)
		}
	})
}

// FuzzRequest lets a caller's request through the message format: what the
// client's side reads is what the server's side was given, and nothing else.
func FuzzRequest(f *testing.F) {
	seed(f, "*.1-caller-request.http")
	f.Fuzz(func(t *testing.T, in []byte) {
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil || !strings.HasPrefix(req.RequestURI, "/") {
			return
		}
		c := &call{method: req.Method, target: origin(req.RequestURI), host: req.Host, header: req.Header, length: int64(len(body)), close: req.Close}
		if req.ContentLength == 0 && len(req.Header["Content-Length"]) == 0 {
			c.length = 0
		}
		message := append(c.appendHead(nil), body...)
		got, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(message)))
		if err != nil {
			return // such as a host that only an HTTP/1.0 request may lack
		}
		again, err := io.ReadAll(got.Body)
		if err != nil || !bytes.Equal(again, body) {
			t.Fatalf("body %q, %v; want %q", again, err, body)
		}
		if got.Method != req.Method || got.RequestURI != c.target {
			t.Fatalf("%s %s became %s %s", req.Method, c.target, got.Method, got.RequestURI)
		}
		for k := range got.Header {
			if _, has := req.Header[k]; !has && k != "User-Agent" && k != "Content-Length" && k != "Connection" {
				t.Fatalf("field %s of %q appeared", k, message)
			}
		}
	})
}

// FuzzAnswer reads whatever a client may answer, in both ways, which agree on
// what the caller gets.
func FuzzAnswer(f *testing.F) {
	seed(f, "*.4-response.payload")
	f.Add([]byte("0001HTTP/2.0 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"))
	f.Add([]byte("0001HTTP/1.1 304 Not Modified\r\nContent-Type: a\r\nKeep-alive: x\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < idSize {
			return
		}
		r := rooms{bytes: &budget{limit: 1 << 20}, memory: &budget{limit: 1 << 10}}
		read := func(parse func(br *bufio.Reader) (int, io.Reader, error)) (int, []byte) {
			s := newSpool(r)
			w := &answerWriter{s: s, left: 1 << 19}
			w.Write(in[idSize:])
			s.finish(nil)
			var status int
			var body io.Reader
			got, err := new(Tunnel).readAnswer(newExchange("GET", ""), s, func(br *bufio.Reader) (err error) {
				status, body, err = parse(br)
				return err
			})
			if err != nil {
				return 0, nil
			}
			b, _ := io.ReadAll(body)
			got.end()
			if len(b) > len(in) {
				t.Fatalf("%d bytes of body from %d", len(b), len(in))
			}
			return status, b
		}
		var p reply
		status, body := read(func(br *bufio.Reader) (int, io.Reader, error) {
			err := p.read(br, []byte("GET"))
			if err == nil && p.length >= 0 {
				p.body = io.LimitReader(p.body, p.length)
			}
			return p.status, p.body, err
		})
		other, rest := read(func(br *bufio.Reader) (int, io.Reader, error) {
			resp, err := http.ReadResponse(br, &http.Request{Method: "GET"})
			if err == nil && (resp.StatusCode < 200 || resp.StatusCode > 999) {
				err = errGarbage
			}
			if err != nil {
				return 0, nil, err
			}
			return resp.StatusCode, resp.Body, nil
		})
		if status != other || status != 204 && status != 304 && !bytes.Equal(body, rest) {
			t.Fatalf("%q: read as %d %q and as %d %q", in, status, body, other, rest)
		}
		if used := r.bytes.used.Load() + r.memory.used.Load(); used != 0 {
			t.Fatalf("%d bytes are still reserved", used)
		}
	})
}
