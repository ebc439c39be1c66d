package websocktunnel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"adit/dialect/websocktunnel"
	"adit/tunnel"
)

// Forward connects streams to what dial opens, and refuses those that it
// cannot.
func TestForward(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprint("plain ", plain), func(t *testing.T) {
			t.Parallel()
			fs := newFakeServer(t, false, websocktunnel.Options{})
			opts := fs.options()
			opts.Plain = plain
			l := listen(t, opts)
			tun := fs.next(t)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				done <- websocktunnel.Forward(ctx, l, time.Second, func(ctx context.Context) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
				})
			}()

			near, err := tun.OpenStream(t.Context(), tunnel.StreamInfo{})
			if err != nil {
				t.Fatal(err)
			}
			upstream, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			upstream.SetDeadline(time.Now().Add(patience))
			io.WriteString(near, "request")
			b := make([]byte, 7)
			if _, err := io.ReadFull(upstream, b); err != nil || string(b) != "request" {
				t.Errorf("upstream read %q, %v", b, err)
			}
			io.WriteString(upstream, "response")
			upstream.(*net.TCPConn).CloseWrite()
			if got, err := io.ReadAll(near); string(got) != "response" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			near.Close() // ends the upstream's conn in both directions
			if n, err := upstream.Read(b); n > 0 || err == nil {
				t.Errorf("upstream read %d bytes, %v; want the end", n, err)
			}
			upstream.Close()

			ln.Close()
			c, err := tun.OpenStream(t.Context(), tunnel.StreamInfo{})
			if plain {
				if err != nil {
					t.Fatal(err)
				}
				if n, err := c.Read(b); n != 0 || err != io.EOF {
					t.Errorf("upstream that is not there: read %d, %v; want the end", n, err)
				}
				c.Close()
			} else if re, ok := errors.AsType[*tunnel.RefusedError](err); !ok || re.Code != tunnel.RefuseUpstreamRefused {
				t.Errorf("upstream that is not there: %v, want a refusal", err)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Forward: %v", err)
			}
			if _, err := tun.OpenStream(t.Context(), tunnel.StreamInfo{}); err == nil {
				t.Error("OpenStream after the end: got no error")
			}
		})
	}
}
