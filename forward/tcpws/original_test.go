package tcpws

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"adit/internal/wsframe"
)

// A modelLink does what an original does with a WebSocket and a TCP connection,
// whichever end it is of: reads of 1024 bytes become messages, and whoever sees
// an end of either says so and closes both at once.
type modelLink struct {
	ws     net.Conn
	br     *bufio.Reader // of ws
	tcp    net.Conn
	client bool
	passed chan<- struct{} // told of each message from tcp, if there is room

	mu sync.Mutex // held while a frame is written
}

func (m *modelLink) send(op byte, payload []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	const key = 0x12345678
	b := wsframe.Append(nil, op, len(payload), m.client, key)
	n := len(b)
	b = append(b, payload...)
	if m.client {
		wsframe.Mask(b[n:], b[n:], key)
	}
	_, err := m.ws.Write(b)
	return err
}

func (m *modelLink) close() {
	m.ws.Close()
	m.tcp.Close()
}

func (m *modelLink) run() {
	var wg sync.WaitGroup
	wg.Go(m.out)
	m.in()
	wg.Wait()
}

func (m *modelLink) out() {
	defer m.close()
	b := make([]byte, 1024)
	for {
		if m.client {
			m.tcp.SetReadDeadline(time.Now().Add(10 * time.Second))
		}
		n, err := m.tcp.Read(b)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			m.send(wsframe.Close, nil)
			return
		}
		if m.send(wsframe.Binary, b[:n]) != nil {
			return
		}
		select {
		case m.passed <- struct{}{}:
		default:
		}
	}
}

func (m *modelLink) in() {
	defer m.close()
	for {
		var head []byte
		var h wsframe.Header
		for n := 0; n == 0; {
			c, err := m.br.ReadByte()
			if err != nil {
				return
			}
			head = append(head, c)
			if h, n, err = wsframe.Parse(head); err != nil || n > 0 && h.Masked == m.client {
				m.send(wsframe.Close, append(binary.BigEndian.AppendUint16(nil, wsframe.CloseProtocol), "malformed"...))
				return
			}
		}
		switch {
		case h.Op >= wsframe.Close:
			p := make([]byte, h.Size)
			if _, err := io.ReadFull(m.br, p); err != nil {
				return
			}
			wsframe.Mask(p, p, h.Key)
			switch h.Op {
			case wsframe.Ping:
				m.send(wsframe.Pong, p)
			case wsframe.Close:
				m.send(wsframe.Close, p[:min(len(p), 2)])
				return
			}
		case h.Op == wsframe.Text:
			m.send(wsframe.Close, nil)
			return
		default:
			left, key := h.Size, h.Key
			b := make([]byte, 4096)
			for left > 0 {
				n, err := m.br.Read(b[:min(left, int64(len(b)))])
				if err != nil {
					return
				}
				key = wsframe.Mask(b[:n], b[:n], key)
				left -= int64(n)
				if _, err := m.tcp.Write(b[:n]); err != nil {
					m.send(wsframe.Close, nil)
					return
				}
			}
		}
	}
}

// modelServer is an original server: it answers before it has dialled.
func modelServer(target string, passed chan<- struct{}) func(context.Context, net.Listener) error {
	return func(ctx context.Context, l net.Listener) error {
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer ws.Close()
			stop := context.AfterFunc(ctx, func() { ws.Close() })
			defer stop()
			io.WriteString(ws, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+
				wsframe.Accept(r.Header.Get("Sec-Websocket-Key"))+"\r\n\r\n")
			tcp, err := net.Dial("tcp", target)
			if err != nil {
				return
			}
			(&modelLink{ws: ws, br: rw.Reader, tcp: tcp, passed: passed}).run()
		})}
		stop := context.AfterFunc(ctx, func() { srv.Close() })
		defer stop()
		srv.Serve(l)
		return nil
	}
}

// modelClient is an original client: it serves nobody else while it waits for an
// answer to a handshake.
func modelClient(at string) func(context.Context, net.Listener) error {
	return func(ctx context.Context, l net.Listener) error {
		var wg sync.WaitGroup
		defer wg.Wait()
		stop := context.AfterFunc(ctx, func() { l.Close() })
		defer stop()
		for {
			caller, err := l.Accept()
			if err != nil {
				return nil
			}
			ws, br, err := modelHandshake(at)
			if err != nil {
				caller.Close()
				continue
			}
			wg.Go(func() {
				stop := context.AfterFunc(ctx, func() { ws.Close() })
				defer stop()
				(&modelLink{ws: ws, br: br, tcp: caller, client: true}).run()
			})
		}
	}
}

func modelHandshake(at string) (net.Conn, *bufio.Reader, error) {
	ws, err := net.Dial("tcp", at)
	if err != nil {
		return nil, nil, err
	}
	key := base64.StdEncoding.EncodeToString([]byte("a key of a model"))
	ws.SetDeadline(time.Now().Add(patience))
	io.WriteString(ws, "GET / HTTP/1.1\r\nHost: "+at+"\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\nSec-WebSocket-Key: "+key+
		"\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(ws)
	resp, err := http.ReadResponse(br, nil)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = errors.New(resp.Status)
	}
	if err != nil {
		ws.Close()
		return nil, nil, err
	}
	ws.SetDeadline(time.Time{})
	return ws, br, nil
}

// withOriginals are both ways in which an end of ours is paired with an original.
func withOriginals(t *testing.T, test func(t *testing.T, p *path)) {
	for name, ours := range map[string]string{"original client": "server", "original server": "client"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &path{target: listen(t)}
			if ours == "server" {
				p.server = NewServer(ServerOptions{Target: p.target.Addr().String(), Metrics: NewMetrics()})
				p.caller = running(t, modelClient(running(t, p.server.Serve)))
			} else {
				p.passed = make(chan struct{}, 1)
				p.client = NewClient(ClientOptions{URL: "ws://" + running(t, modelServer(p.target.Addr().String(), p.passed))})
				p.caller = running(t, p.client.Serve)
			}
			test(t, p)
		})
	}
}
