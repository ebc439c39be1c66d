package tcpws

import (
	"bytes"
	"io"
	"net"
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
