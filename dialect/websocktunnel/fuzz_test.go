package websocktunnel_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"adit/dialect/websocktunnel"
	"adit/internal/memnet"
	"adit/internal/testraw"
	"adit/internal/wsframe"
	"adit/tunnel"
)

// FuzzRegistration lets anybody ask to register: what is not a registration is
// refused in the original's way, and nobody gets in whom admit has not seen.
func FuzzRegistration(f *testing.F) {
	for _, r := range registrations(f) {
		f.Add([]byte(r.asks))
	}
	for _, file := range []string{"testdata/websocktunnel/responses.json", "testdata/webhooktunnel/responses-2018-12-single.json"} {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var vectors []struct{ Request string }
		if err := json.Unmarshal(text, &vectors); err != nil {
			f.Fatal(err)
		}
		for _, v := range vectors {
			f.Add([]byte(testraw.Bytes(v.Request)))
		}
	}
	d := websocktunnel.New(websocktunnel.Options{Auth: everybody{}})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil || !d.Match(r) {
			return
		}
		w := httptest.NewRecorder() // cannot be taken over, so that nobody gets in
		tun, err := d.Accept(w, r, d.Authenticate)
		if tun != nil || err == nil {
			t.Fatalf("got the tunnel %v and %v", tun, err)
		}
		switch w.Code {
		case 400, 401, 404, 405, 500:
		default:
			t.Errorf("status %d", w.Code)
		}
	})
}

// FuzzAnswer lets a server answer anything to a registration, ACCEPT standing
// for what the key asks for.
func FuzzAnswer(f *testing.F) {
	for _, r := range registrations(f) {
		answer := strings.Replace(r.answer, field(r.answer, "Sec-WebSocket-Accept"), "ACCEPT", 1)
		f.Add([]byte(answer))
		f.Add([]byte(strings.Replace(answer, "\r\n\r\n", "\r\nAdit-Wsmux: window=65536, mask=zero\r\n\r\n\x89\x00\x82\x05\x01\x00\x00\x00\x00", 1)))
	}
	f.Add([]byte("HTTP/1.1 401 Unauthorized\r\nContent-Length: 13\r\n\r\nUnauthorized\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var served chan struct{}
		opts := websocktunnel.ListenOptions{
			Configure: func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
				return websocktunnel.Config{ID: "demo", Server: "http://server.test", Token: "token", PeerWindow: 4096}, nil
			},
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				if served != nil {
					return nil, errors.New("once is enough")
				}
				served = make(chan struct{})
				near, far := memnet.Pipe()
				go func() {
					defer close(served)
					defer far.Close()
					r, err := http.ReadRequest(bufio.NewReader(far))
					if err != nil {
						return
					}
					accept := wsframe.Accept(r.Header.Get("Sec-Websocket-Key"))
					far.Write(bytes.Replace(b, []byte("ACCEPT"), []byte(accept), 1))
					far.CloseWrite()
					io.Copy(io.Discard, far)
				}()
				return near, nil
			},
			Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
			Retry: websocktunnel.Retry{Initial: time.Millisecond, Total: time.Microsecond},
		}
		l, err := websocktunnel.Listen(t.Context(), opts)
		if err == nil {
			if strings.ContainsAny(l.URL(), "\r\n\x00") {
				t.Errorf("public address %q", l.URL())
			}
			for err == nil || errors.Is(err, websocktunnel.ErrReconnecting) {
				var c tunnel.Incoming
				if c, err = l.AcceptIncoming(); err == nil {
					c.Close()
				}
			}
			l.Close()
		}
		if !errors.Is(err, websocktunnel.ErrAuthFailed) && !errors.Is(err, websocktunnel.ErrRetryFailed) && !errors.Is(err, websocktunnel.ErrRetryTimedOut) {
			t.Errorf("ended with %v", err)
		}
		<-served
	})
}
