package wsconn

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// interopSizes returns sizes of messages: the remarkable ones and random ones.
func interopSizes() []int {
	s := []int{0, 1, 125, 126, 127, 65535, 65536, 1 << 20}
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		s = append(s, r.IntN(1<<r.IntN(19)))
	}
	return s
}

// echo sends messages through c to a far side that sends each back, and checks
// them.
func echo(t *testing.T, c *Conn) {
	t.Helper()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i, n := range interopSizes() {
			buf := append(make([]byte, 14), content(n)...)
			var err error
			if i%2 == 0 || n == 0 { // Write sends no empty message
				var done bool
				done, err = c.TryWriteMessage(buf, 14)
				if err == nil && !done {
					err = c.FlushMessage()
				}
			} else {
				_, err = c.Write(buf[14:])
			}
			if err != nil {
				t.Errorf("message of %d bytes: %v", n, err)
				return
			}
		}
	})
	for _, n := range interopSizes() {
		got := make([]byte, n)
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, content(n)) {
			t.Fatalf("message of %d bytes came back damaged (%v)", n, err)
		}
	}
}

// acceptKey is the answer to a key (RFC 6455, section 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// echoMessages sends back what comes, until the other end closes.
func echoMessages(ctx context.Context, ws *websocket.Conn) error {
	ws.SetReadLimit(-1)
	for {
		typ, p, err := ws.Read(ctx)
		if err != nil {
			return err
		}
		if err := ws.Write(ctx, typ, p); err != nil {
			return err
		}
	}
}

func TestInteropClient(t *testing.T) {
	t.Parallel()
	served := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			served <- err
			return
		}
		defer ws.CloseNow()
		served <- echoMessages(r.Context(), ws)
	}))
	defer srv.Close()

	sock, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	io.WriteString(sock, "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	br := bufio.NewReader(sock)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	head, _ := br.Peek(br.Buffered())
	c := New(sock, Client, Options{Buffered: head})
	echo(t, c)
	c.Close()
	if err := <-served; websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("the server's end = %v, want a normal close", err)
	}
}

func TestInteropServer(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sock, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		head, _ := brw.Reader.Peek(brw.Reader.Buffered())
		c := New(sock, Server, Options{Buffered: head})
		defer c.Close()
		io.WriteString(sock, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: "+acceptKey(r.Header.Get("Sec-WebSocket-Key"))+"\r\n\r\n")
		echo(t, c)
		if n, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("Read = %d, %v; want EOF", n, err)
		}
	}))
	defer srv.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(srv.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(-1)
	pinged := make(chan error, 1)
	for i := range interopSizes() {
		if i == 10 {
			go func() { pinged <- ws.Ping(ctx) }()
		}
		typ, p, err := ws.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 { // in fragments
			w, err := ws.Writer(ctx, typ)
			if err != nil {
				t.Fatal(err)
			}
			w.Write(p[:len(p)/2])
			w.Write(p[len(p)/2:])
			err = w.Close()
			if err != nil {
				t.Fatal(err)
			}
		} else if err := ws.Write(ctx, typ, p); err != nil {
			t.Fatal(err)
		}
	}
	ws.CloseRead(ctx) // somebody has to read the pong, if it has not come yet
	if err := <-pinged; err != nil {
		t.Errorf("Ping = %v, want a pong", err)
	}
	if err := ws.Close(websocket.StatusNormalClosure, "done"); err != nil {
		t.Errorf("Close = %v, want an answered close frame", err)
	}
}
