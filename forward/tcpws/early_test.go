package tcpws

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"adit/internal/wsframe"
)

// scripted is a server that takes each WebSocket by hand.
func scripted(t testing.TB, header string, serve func(ws *net.TCPConn)) (url string) {
	t.Helper()
	return "ws://" + running(t, func(ctx context.Context, l net.Listener) error {
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+
				wsframe.Accept(r.Header.Get("Sec-Websocket-Key"))+"\r\n"+header+"\r\n")
			serve(c.(*net.TCPConn))
		})}
		stop := context.AfterFunc(ctx, func() { srv.Close() })
		defer stop()
		srv.Serve(l)
		return nil
	})
}

// An original answers, says that it closes, and closes at once with much unread:
// that resets the connection.
func TestEarlyAnswerOfAnOriginalServer(t *testing.T) {
	t.Parallel()
	u := scripted(t, "", func(ws *net.TCPConn) {
		io.ReadFull(ws, make([]byte, 64<<10)) // what the caller sends is under way
		io.WriteString(ws, "\x82\x0cearly answer\x88\x00")
	})
	caller := running(t, NewClient(ClientOptions{URL: u}).Serve)
	lost := 0
	const times = 40
	for range times {
		c, err := net.Dial("tcp", caller)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.Write(make([]byte, 4<<20))
		}()
		<-done // an answer waits for who has not finished
		if got, _ := io.ReadAll(c); string(got) != "early answer" {
			lost++
		}
		c.Close()
	}
	if lost > 0 {
		t.Errorf("%d of %d answers were lost", lost, times)
	}
}

// The target answers and closes with much unread. Whoever still sends is not
// reset: an original would forget the answer.
func TestEarlyAnswerToAnOriginalClient(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]string{"original": "", "our own": headerFeatures + ": ends, zero-mask\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPath(t, false)
			ws, target := p.handshake(t, header)
			send := func() error {
				_, err := ws.Write(wsframe.Append(nil, wsframe.Binary, 1<<20, true, 0))
				if err == nil {
					_, err = ws.Write(make([]byte, 1<<20))
				}
				return err
			}
			if err := send(); err != nil {
				t.Fatal(err)
			}
			target.Read(make([]byte, 1)) // and leaves the rest
			io.WriteString(target, "early answer")
			target.Close()
			want := "\x82\x0cearly answer\x88\x00"
			if header != "" {
				want = "\x82\x0cearly answer\x81\x05reset"
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(ws, got); string(got) != want || err != nil {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
			for range 8 {
				if err := send(); err != nil {
					t.Fatalf("the other end was reset while it was sending: %v", err)
				}
			}
			io.WriteString(ws, "\x88\x80\x00\x00\x00\x00")
			if rest, err := io.ReadAll(ws); err != nil {
				t.Errorf("got %q, %v, want the end", rest, err)
			}
		})
	}
}

// Whoever breaks the protocol is told, although it sends on.
func TestAccusedWhileSending(t *testing.T) {
	t.Parallel()
	p := newPath(t, false)
	ws, target := p.handshake(t, "")
	for range 8 { // a frame that is not masked, and more
		if _, err := ws.Write(append([]byte{0x82, 0x7e, 0xff, 0xff}, make([]byte, 1<<20)...)); err != nil {
			t.Fatalf("reset before it was told: %v", err)
		}
	}
	var head [4]byte
	if _, err := io.ReadFull(ws, head[:]); err != nil || head[0] != 0x88 || binary.BigEndian.Uint16(head[2:]) != wsframe.CloseProtocol {
		t.Errorf("got %x, %v, want a close frame with 1002", head, err)
	}
	target.SetReadDeadline(time.Now().Add(patience))
	if _, err := target.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target got %v, want a reset", err)
	}
}
