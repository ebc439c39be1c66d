package ingress

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"adit/tunnel"
)

func TestUpgrade(t *testing.T) {
	t.Parallel()
	addr, l := rawSite(t)
	c := dial(t, addr)
	c.send("GET /ws HTTP/1.1\r\nHost: web\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\nearly")
	up := acceptStream(t, l)
	head := readUntil(t, up, "\r\n\r\n")
	if !strings.Contains(head, "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n") || !strings.Contains(head, "Sec-WebSocket-Key: abc") {
		t.Errorf("upstream got %q", head)
	}
	if info := up.(tunnel.Incoming).Info(); info.Visitor.String() != c.LocalAddr().String() || info.Host != "web" || info.Protocol != "http" {
		t.Errorf("stream info %+v, want the visitor's address and host", info)
	}
	io.WriteString(up, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Sec-Websocket-Accept") != "x" {
		t.Fatalf("got %+v, %v; want 101", resp, err)
	}
	c.expect("hello")
	readUntil(t, up, "early")
	c.send("ping")
	readUntil(t, up, "ping")
	io.WriteString(up, "pong")
	c.expect("pong")
	// Each direction ends on its own.
	c.Conn.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(up); len(rest) > 0 || err != nil {
		t.Errorf("upstream after the visitor's half-close: %q, %v", rest, err)
	}
	io.WriteString(up, "last")
	up.Close()
	if rest, err := io.ReadAll(c.r); string(rest) != "last" || err != nil {
		t.Errorf("visitor after its half-close: %q, %v; want last", rest, err)
	}
}

func TestUpgradeDeclined(t *testing.T) {
	t.Parallel()
	addr := startSite(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", 400) })
	c := dial(t, addr)
	for range 2 {
		c.send("GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		if resp, body := c.response("GET"); resp.StatusCode != 400 || body != "no\n" {
			t.Errorf("got %d %q, want 400 no", resp.StatusCode, body)
		}
	}
}
