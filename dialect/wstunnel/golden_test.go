package wstunnel

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"adit/internal/wsframe"
)

// The files of testdata were recorded from the original, version 1.0.7.
func recorded(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// cases are the names of the recorded requests.
func cases(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.2-request.payload")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recorded requests: %v", err)
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".2-request.payload")
	}
	return files
}

// ask sends raw bytes and returns all that comes back.
func ask(t *testing.T, addr, raw string) <-chan string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(conn)
		got <- string(b)
	}()
	return got
}

var dates = regexp.MustCompile(`(?m)^Date: .*\r$`)

func undated(s string) string { return dates.ReplaceAllString(s, "Date: D\r") }

// The server puts callers' requests into the same messages as the original, and
// makes the same of the answers.
func TestServerReplay(t *testing.T) {
	t.Parallel()
	s, addr := startServer(t, ServerOptions{})
	p, head := dialPeer(t, addr, recorded(t, "01-upgrade-request.http"))
	if want := recorded(t, "02-upgrade-response.http"); head != want {
		t.Fatalf("handshake: got %q, want %q", head, want)
	}
	tun, ok := s.Tunnel(testToken)
	if !ok {
		t.Fatal("the token is not known after the 101")
	}
	for _, name := range cases(t) {
		request, want := recorded(t, name+".1-caller-request.http"), recorded(t, name+".2-request.payload")
		response := undated(recorded(t, name+".5-caller-response.http"))
		id, err := parseID([]byte(want[:idSize]))
		if err != nil {
			t.Fatal(err)
		}
		replay := func(name, request, want, response string) {
			tun.mu.Lock()
			tun.lastID = id - 1
			tun.mu.Unlock()
			answer := ask(t, addr, request)
			if got := p.message(); got != want {
				t.Errorf("%s: message %q, want %q", name, got, want)
			}
			p.send(recorded(t, name[:strings.LastIndex(name, "/")]+".4-response.payload"))
			if got := undated(<-answer); got != response {
				t.Errorf("%s: caller got %q, want %q", name, got, response)
			}
		}
		replay(name+"/as it was", request, want, response)
		if strings.Contains(request, closes) && strings.Contains(response, closes) {
			// The same on a connection that stays, but for what ends it: a
			// request that the server answers by itself and then closes.
			end := "GET /_tunnel HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
			last := "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nDate: D\r\n" +
				"Content-Length: 46\r\nConnection: close\r\n\r\nOrigin header with rendez-vous token required\n"
			replay(name+"/and another", without(request, closes)+end, without(want, closes), without(response, closes)+last)
		}
	}
}

// closes is the line with which one side says that it closes the connection.
const closes = "Connection: close\r\n"

func without(s, line string) string { return strings.Replace(s, line, "", 1) }

// What the server answers itself.
func TestServerAnswers(t *testing.T) {
	t.Parallel()
	_, addr := startServer(t, ServerOptions{})
	for _, name := range []string{
		"50-health-check", "53-missing-token", "54-missing-token-in-path", "55-unknown-token",
		"58-tunnel-no-origin", "59-tunnel-short-token", "60-tunnel-not-websocket",
	} {
		got, want := undated(<-ask(t, addr, recorded(t, name+".request.http"))), undated(recorded(t, name+".response.http"))
		if got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	got := <-ask(t, addr, strings.Replace(recorded(t, "61-tunnel-post.request.http"), "Host:", "Connection: close\r\nHost:", 1))
	if !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.HasSuffix(got, "Only GET requests are supported\n") {
		t.Errorf("POST to /_tunnel: got %q", got)
	}
}

// The pong to the original's ping.
func TestPingReplay(t *testing.T) {
	t.Parallel()
	_, addr := startServer(t, ServerOptions{})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, recorded(t, "01-upgrade-request.http")+recorded(t, "03-ping.frame"))
	want := recorded(t, "02-upgrade-response.http") + recorded(t, "04-pong.frame")
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// acceptPeer takes one client on l as an original's server does.
func acceptPeer(t *testing.T, l net.Listener) (*peer, string) {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	var head bytes.Buffer
	req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(&untilBlank{br: br}, &head)))
	if err != nil {
		t.Fatal(err)
	}
	key := req.Header.Get("Sec-Websocket-Key")
	answer := strings.Replace(recorded(t, "02-upgrade-response.http"), "s9GMbu09K5k225HG9kpP0lxOv6U=", accept(key), 1)
	io.WriteString(conn, answer)
	return newPeer(t, conn, br, false), strings.Replace(head.String(), key, "KEY", 1)
}

// untilBlank reads up to the end of a head.
type untilBlank struct {
	br   *bufio.Reader
	done bool
}

func (u *untilBlank) Read(p []byte) (int, error) {
	if u.done {
		return 0, io.EOF
	}
	line, err := u.br.ReadSlice('\n')
	u.done = string(line) == "\r\n"
	return copy(p, line), err
}

// The client makes the same requests of messages as the original, and puts the
// answers into the same messages.
func TestClientReplay(t *testing.T) {
	t.Parallel()
	local, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own := local.Addr().String()
	script := make(chan string, 2) // raw answers
	saw := make(chan string, 2)
	var serving sync.WaitGroup
	serve := func(conn net.Conn) {
		defer conn.Close()
		br := bufio.NewReader(conn)
		for {
			var raw bytes.Buffer
			req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(&oneByte{br}, &raw)))
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			saw <- raw.String()
			answer := <-script
			io.WriteString(conn, answer)
			if req.Close || strings.HasPrefix(answer, "HTTP/1.0 ") {
				return
			}
		}
	}
	serving.Go(func() {
		for {
			conn, err := local.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		local.Close()
		serving.Wait() // the client, which ends first, closes its connections
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(own)
	startClient(t, ClientOptions{
		Tunnel: "ws://" + l.Addr().String(), Token: testToken, Server: "http://" + own,
		Regexp: regexp.MustCompile(`http://127\.0\.0\.1:(` + port + `|18089)`), Messages: true,
	})
	p, head := acceptPeer(t, l)
	if want := strings.NewReplacer("bQSMAhy5mO0m0RWIxV0ofg==", "KEY", "127.0.0.1:18080", l.Addr().String()).Replace(recorded(t, "01-upgrade-request.http")); head != want {
		t.Errorf("handshake: got %q, want %q", head, want)
	}
	here := strings.NewReplacer("127.0.0.1:18081", own, "X-Token: "+testToken+"\r\n", "")
	for _, name := range cases(t) {
		answer := recorded(t, name+".4-response.payload")
		requests := []string{here.Replace(recorded(t, name+".3-backend-request.http"))}
		answers := []string{answer[idSize:]}
		switch name[:2] {
		case "17":
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			io.WriteString(w, "hello gzip")
			w.Close()
			answers[0] = strings.Replace(answers[0], "\r\n\r\nhello gzip", fmt.Sprintf("\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", z.Len(), z.String()), 1)
		case "18", "19":
			at := strings.LastIndex(requests[0], "GET /target")
			requests = []string{requests[0][:at], requests[0][at:]}
			answers = []string{"HTTP/1.1 302 Found\r\nLocation: /target\r\nContent-Length: 0\r\n\r\n", answers[0]}
		case "26", "27":
			requests = nil
		}
		message := strings.ReplaceAll(recorded(t, name+".2-request.payload"), "127.0.0.1:18081", own)
		lines := []string{""} // as it was
		if strings.Count(message, "\r\nConnection: ") == 1 && strings.Contains(message, closes) {
			lines = append(lines, closes) // and on a connection that stays
		}
		for _, line := range lines {
			p.send(without(message, line))
			for i, want := range requests {
				if got, want := <-saw, without(want, line); got != want {
					t.Errorf("%s: the local server saw %q, want %q", name, got, want)
				}
				script <- answers[i]
			}
			if got := p.message(); undated(got) != undated(answer) {
				t.Errorf("%s: answer %q, want %q", name, got, answer)
			}
		}
	}
}

// oneByte keeps a reader from taking more than it needs.
type oneByte struct{ r io.Reader }

func (o *oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(len(p), 1)]) }

// Answers that local servers gave over HTTP/2.
func TestHTTP2Answers(t *testing.T) {
	t.Parallel()
	_, addr := startServer(t, ServerOptions{})
	p, _ := dialPeer(t, addr, originalHandshake(testToken))
	for _, name := range []string{"31-http2-local-server", "32-http2-local-server-stream"} {
		payload := recorded(t, name+".4-response.payload")
		answer := ask(t, addr, "GET /_token/"+testToken+"/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		p.send(p.message()[:idSize] + payload[idSize:])
		_, body, _ := strings.Cut(payload, "\r\n\r\n")
		if got := <-answer; !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(got, "\r\n\r\n"+body) {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func accept(key string) string { return wsframe.Accept(key) }
