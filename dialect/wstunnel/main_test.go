package wstunnel

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/wsframe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testToken = "golden_token_0123456789"

// startServer serves a Server on loopback until the test ends.
func startServer(t *testing.T, opts ServerOptions) (*Server, string) {
	t.Helper()
	if opts.Grace == 0 {
		opts.Grace = -1
	}
	s := NewServer(opts)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s, l.Addr().String()
}

// startClient runs a Client until stop is called or the test ends.
func startClient(t *testing.T, opts ClientOptions) (stop func()) {
	t.Helper()
	c, err := NewClient(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.Run(ctx) })
	stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// startLocal serves h as a local server.
func startLocal(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// A peer is the other end of a connection, as a script.
type peer struct {
	t    *testing.T
	conn net.Conn
	br   *bufio.Reader
	r    *wsReader
	w    *wsWriter
	ctrl chan string
	done chan struct{}
}

func newPeer(t *testing.T, conn net.Conn, br *bufio.Reader, client bool) *peer {
	p := &peer{t: t, conn: conn, br: br, w: newWriter(conn, client), ctrl: make(chan string, 16), done: make(chan struct{})}
	p.r = &wsReader{c: conn, br: br, client: client, limit: func() time.Duration { return 20 * time.Second }, onCtrl: func(op byte, b []byte) {
		if op == wsframe.Ping {
			p.w.sendControl(wsframe.Pong, b)
			return
		}
		select {
		case p.ctrl <- string(rune(op)) + string(b):
		default:
		}
	}}
	go func() {
		defer close(p.done)
		p.w.run()
	}()
	t.Cleanup(p.close)
	return p
}

func (p *peer) close() {
	p.w.close()
	<-p.done
	p.conn.Close()
}

// message returns the next one.
func (p *peer) message() string {
	p.t.Helper()
	p.r.alive()
	if err := p.r.next(); err != nil {
		p.t.Fatalf("next message: %v", err)
	}
	b, err := io.ReadAll(p.r)
	if err != nil {
		p.t.Fatalf("read message: %v", err)
	}
	return string(b)
}

// send sends a whole message, with its id.
func (p *peer) send(m string) {
	p.t.Helper()
	id, err := parseID([]byte(m[:idSize]))
	if err != nil {
		p.t.Fatal(err)
	}
	p.w.send(&outgoing{id: id, head: []byte(m[idSize:])})
}

// dialPeer connects to a server as an original's client does.
func dialPeer(t *testing.T, addr, handshake string) (*peer, string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, handshake); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	var head string
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			t.Fatalf("handshake: %v after %q", err, head)
		}
		if head += line; line == "\r\n" {
			break
		}
	}
	return newPeer(t, conn, br, true), head
}

// originalHandshake is what an original's client sends.
func originalHandshake(token string) string {
	return "GET /_tunnel HTTP/1.1\r\nHost: h\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\nOrigin: " + token +
		"\r\nSec-WebSocket-Key: bQSMAhy5mO0m0RWIxV0ofg==\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n"
}

// get sends a request under testToken, and returns what came.
func get(t *testing.T, addr, path string) (int, string) {
	t.Helper()
	return send(t, http.MethodGet, addr, path, nil)
}

func send(t *testing.T, method, addr, path string, body io.Reader) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+"/_token/"+testToken+path, body)
	if err != nil {
		t.Fatal(err)
	}
	client := http.DefaultClient
	if method != http.MethodPut { // those and others take different ways, and no connection of one another
		transport := &http.Transport{DisableKeepAlives: true}
		defer transport.CloseIdleConnections()
		client = &http.Client{Transport: transport}
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}
