package server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"adit/dialect/websocktunnel"
)

// Requests that fail in every way that there is leave no stream behind, on
// neither side.
func TestRegistrantFailures(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprint("plain ", plain), func(t *testing.T) {
			t.Parallel()
			f := start(t, withRegistrants("ci"))
			// What the upstream does, in turn. A request is read to its end
			// before, where there is an upstream at all.
			const head = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nbegin"
			var turn atomic.Int64
			ways := []func(c *net.TCPConn){
				nil, // it is down
				func(c *net.TCPConn) {},
				func(c *net.TCPConn) { c.SetLinger(0) },
				func(c *net.TCPConn) { io.WriteString(c, "HTTP/1.1 2") },
				func(c *net.TCPConn) { io.WriteString(c, head) },
				func(c *net.TCPConn) { io.WriteString(c, head); c.SetLinger(0) },
				func(c *net.TCPConn) { io.WriteString(c, "nonsense\r\n\r\n") },
				func(c *net.TCPConn) { io.WriteString(c, head); io.Copy(io.Discard, c) }, // the visitor leaves
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						http.ReadRequest(bufio.NewReader(c))
						ways[turn.Load()](c.(*net.TCPConn))
					}()
				}
			}()
			l, err := websocktunnel.Listen(t.Context(), websocktunnel.ListenOptions{
				Configure: func(context.Context, websocktunnel.Ask) (websocktunnel.Config, error) {
					return websocktunnel.Config{ID: "task", Server: "http://" + f.Addr().String(), Token: "good"}, nil
				},
				Proxy: func(*url.URL) (*url.URL, error) { return nil, nil },
				Plain: plain,
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			forwarded := make(chan error, 1)
			go func() {
				forwarded <- websocktunnel.Forward(ctx, l, 0, func(ctx context.Context) (net.Conn, error) {
					if ways[turn.Load()] == nil {
						return nil, errors.New("nobody there")
					}
					return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
				})
			}()
			defer func() { cancel(); <-forwarded }()

			visitor := f.visitor(t)
			for n := range 400 {
				way := n % len(ways)
				turn.Store(int64(way))
				req, err := http.NewRequest("POST", "http://task.example.com/", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := visitor.Do(req)
				if err != nil {
					continue // the answer cannot be had as a whole
				}
				if way != len(ways)-1 {
					_, err = io.Copy(io.Discard, resp.Body)
				}
				resp.Body.Close()
				if resp.StatusCode == 200 && err == nil && way != len(ways)-1 {
					t.Errorf("way %d: an answer that looks whole", way)
				}
			}
			limit := time.After(10 * time.Second)
			for l.Streams() > 0 || f.Sessions()[0].Streams > 0 {
				select {
				case <-limit:
					t.Fatalf("streams left: %d at the agent, %d at the server", l.Streams(), f.Sessions()[0].Streams)
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
}
