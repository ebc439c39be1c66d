package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestWebSocketVisitorThroughHTTPTunnel(t *testing.T) {
	t.Parallel()
	need(t, "go")
	addr := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/echo" {
			return
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}, InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(8 << 20)
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if string(b) == "bye" {
				c.Close(4321, "as you wish")
				return
			}
			if err := c.Write(r.Context(), kind, b); err != nil {
				return
			}
		}
	})
	s, _ := startHTTP(t, addr)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, s.hostURL("web")+"/echo", &websocket.DialOptions{
		HTTPClient: s.visitor(t), Subprotocols: []string{"echo"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	c.SetReadLimit(8 << 20)
	if got := c.Subprotocol(); got != "echo" {
		t.Errorf("got subprotocol %q, want echo", got)
	}
	big, err := io.ReadAll(body(4 << 20))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		kind websocket.MessageType
		b    []byte
	}{
		{"text", websocket.MessageText, []byte("hello")},
		{"empty", websocket.MessageBinary, nil},
		{"4 MiB", websocket.MessageBinary, big},
	} {
		if err := c.Write(ctx, tt.kind, tt.b); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		kind, b, err := c.Read(ctx)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if kind != tt.kind || !bytes.Equal(b, tt.b) {
			t.Errorf("%s: got %v of %d bytes, want the same %v of %d bytes", tt.name, kind, len(b), tt.kind, len(tt.b))
		}
	}
	if err := c.Write(ctx, websocket.MessageText, []byte("bye")); err != nil {
		t.Fatal(err)
	}
	_, _, err = c.Read(ctx)
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != 4321 || closed.Reason != "as you wish" {
		t.Errorf("got %v, want the upstream's close code 4321 and reason", err)
	}
}
