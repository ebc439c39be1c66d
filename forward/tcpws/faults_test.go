package tcpws

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"adit/internal/wsframe"
)

// What came before a message that is not allowed is delivered; nothing of that
// one is.
func TestDataBeforeAFault(t *testing.T) {
	t.Parallel()
	p := newPath(t, false)
	for name, fault := range map[string]string{"text": "\x81\x84\x00\x00\x00\x00text", "no mask": "\x82\x01a"} {
		t.Run(name, func(t *testing.T) {
			ws, target := p.handshake(t, "")
			want := numbers(256 << 10)
			ws.Write(append(wsframe.Append(nil, wsframe.Binary, len(want), true, 0), want...))
			io.WriteString(ws, fault)
			target.SetDeadline(time.Now().Add(patience))
			time.Sleep(50 * time.Millisecond) // a reset forgets what was not read before
			if got, _ := io.ReadAll(target); !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, want %d", len(got), len(want))
			}
		})
	}
}

// A close frame is answered with its code alone.
func TestAnswerToACloseFrame(t *testing.T) {
	t.Parallel()
	p := newPath(t, false)
	for name, tt := range map[string]struct{ frame, want string }{
		"empty":             {"\x88\x80\x00\x00\x00\x00", "\x88\x00"},
		"code":              {"\x88\x82\x00\x00\x00\x00\x03\xe8", "\x88\x02\x03\xe8"},
		"code and text":     {"\x88\x85\x00\x00\x00\x00\x0f\xa0bye", "\x88\x02\x0f\xa0"},
		"code of no frame":  {"\x88\x82\x00\x00\x00\x00\x03\xee", "\x88\x2d\x03\xea" + errClose.Error()},
		"reserved bits":     {"\xd2\x80\x00\x00\x00\x00", "\x88\x1e\x03\xea" + wsframe.ErrReserved.Error()},
		"ping before":       {"\x89\x82\x00\x00\x00\x00hi\x88\x80\x00\x00\x00\x00", "\x8a\x02hi\x88\x00"},
		"unfinished before": {"\x02\x80\x00\x00\x00\x00\x88\x80\x00\x00\x00\x00", "\x88\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			ws, _ := p.handshake(t, "")
			io.WriteString(ws, tt.frame)
			if got, err := io.ReadAll(ws); string(got) != tt.want || err != nil {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// A ping that comes while a text or an empty message is sent has its answer.
func TestPongBesideATextOfOurs(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	l := &link{}
	l.ws.init(b)
	sent := make(chan error, 1)
	go func() { sent <- l.writeText(textEnd) }()
	var got [5]byte
	a.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(a, got[:2]); err != nil { // it is being written
		t.Fatal(err)
	}
	l.answerPing([]byte("hi"))
	if _, err := io.ReadFull(a, got[:3]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(a, got[:4]); err != nil || string(got[:4]) != "\x8a\x02hi" {
		t.Errorf("got %q, %v, want the pong", got[:4], err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// A hasty conn gives writes up that have a deadline.
type hasty struct{ net.Conn }

func (c hasty) SetWriteDeadline(at time.Time) error {
	if !at.IsZero() {
		at = time.Unix(1, 0)
	}
	return c.Conn.SetWriteDeadline(at)
}

// Who breaks the protocol, or ends it, and reads nothing of what the target sends
// holds it no longer for that.
func TestEndOfWhoReadsNothing(t *testing.T) {
	t.Parallel()
	for name, frame := range map[string]string{"fault": "\xd2\x80\x00\x00\x00\x00", "close frame": "\x88\x80\x00\x00\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ws, wsB := net.Pipe()
			defer ws.Close()
			target, tcp := net.Pipe()
			defer target.Close()
			done := make(chan error, 1)
			go func() { done <- newLink(hasty{wsB}, tcp).run() }()
			if _, err := io.WriteString(target, "what nobody reads"); err != nil {
				t.Fatal(err)
			}
			io.WriteString(ws, frame)
			select {
			case <-done:
			case <-time.After(patience):
				t.Error("it goes on")
			}
		})
	}
}

// A text between two of our own is short, whatever its frames say.
func TestTextLength(t *testing.T) {
	t.Parallel()
	p := newPath(t, false)
	ws, target := p.handshake(t, headerFeatures+": ends\r\n")
	io.WriteString(ws, "\x01\x81\x00\x00\x00\x00e"+"\x80\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00")
	if got, err := io.ReadAll(ws); string(got) != "\x88\x00" || err != nil {
		t.Errorf("got %q, %v, want a close frame", got, err)
	}
	target.SetDeadline(time.Now().Add(patience))
	if n, err := target.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes of it were delivered", n)
	}
}

// The words of a foreign server are not for a log.
func TestStatusInTheLog(t *testing.T) {
	t.Parallel()
	at := running(t, func(ctx context.Context, l net.Listener) error {
		stop := context.AfterFunc(ctx, func() { l.Close() })
		defer stop()
		for {
			c, err := l.Accept()
			if err != nil {
				return nil
			}
			io.WriteString(c, "HTTP/1.1 403 \x1b]0;marked\a\r\nContent-Length: 0\r\n\r\n")
			c.Close()
		}
	})
	lines := newLogged()
	c, err := net.Dial("tcp", running(t, NewClient(ClientOptions{URL: "ws://" + at, Log: log.New(lines, "", 0)}).Serve))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := lines.await(t, "the server answered 403 Forbidden"); bytes.Contains([]byte(got), []byte("marked")) {
		t.Errorf("got %q", got)
	}
}

// A body is refused, and not taken for frames.
func TestUpgradeWithABody(t *testing.T) {
	t.Parallel()
	p := newPath(t, false)
	for name, field := range map[string]string{"length": "Content-Length: 8", "chunks": "Transfer-Encoding: chunked"} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", strings.TrimPrefix(p.client.opts.URL, "ws://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"+
				field+"\r\n\r\n0\r\n\r\n\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != http.StatusBadRequest {
				t.Errorf("got %+v, %v, want 400", resp, err)
			}
		})
	}
}

// Frames of any length, with or without masks, in pieces, with pings between, come
// out as the bytes that went in.
func TestFramesOfAnyShape(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			p := newPath(t, false)
			ws, target := p.handshake(t, headerFeatures+": ends, zero-mask\r\n")
			r, noise := rand.New(rand.NewPCG(seed, 0)), rand.NewChaCha8([32]byte{byte(seed)})
			var sent []byte
			var wire []byte
			pings := 0
			open := false
			for len(wire) < 4<<20 {
				size := []int{0, 1, 125, 126, 1 << 10, 1<<16 - 1, 1 << 16, spliceFrom - 1, spliceFrom, spliceFrom + r.IntN(1<<20)}[r.IntN(10)]
				key := uint32(0)
				if r.IntN(2) == 0 {
					key = r.Uint32()
				}
				payload := make([]byte, size)
				noise.Read(payload)
				sent = append(sent, payload...)
				op, fin := byte(wsframe.Binary), r.IntN(3) > 0
				if open {
					op = wsframe.Continuation
				}
				at := len(wire)
				wire = wsframe.Append(wire, op, size, true, key)
				if !fin {
					wire[at] &^= 0x80
				}
				open = !fin
				at = len(wire)
				wire = append(wire, payload...)
				wsframe.Mask(wire[at:], wire[at:], key)
				if r.IntN(4) == 0 {
					pings++
					wire = append(wsframe.Append(wire, wsframe.Ping, 2, true, 0), "hi"...)
				}
			}
			if open {
				wire = wsframe.Append(wire, wsframe.Continuation, 0, true, 0)
			}
			wire = append(wsframe.Append(wire, wsframe.Text, len(textEnd), true, 0), textEnd...)
			var wg sync.WaitGroup
			wg.Go(func() {
				for rest := wire; len(rest) > 0; {
					n := min(len(rest), 1+r.IntN(1<<uint(8+r.IntN(13))))
					if _, err := ws.Write(rest[:n]); err != nil {
						t.Errorf("write: %v", err)
						return
					}
					rest = rest[n:]
				}
			})
			target.SetDeadline(time.Now().Add(patience))
			got, err := io.ReadAll(target)
			wg.Wait()
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("got %d bytes, %v, want %d, the same", len(got), err, len(sent))
			}
			target.Close()
			back, err := io.ReadAll(ws)
			if !bytes.Contains(back, []byte("\x8a\x02hi")) || err != nil {
				t.Errorf("got %q, %v, want pongs to the last of %d pings", back, err, pings)
			}
		})
	}
}
