package ingress

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

type routeFunc func(key string) (Target, error)

func (f routeFunc) Route(_ context.Context, key string) (Target, error) { return f(key) }

// What is told of visitors who do not speak HTTP, at their end.
func TestVisits(t *testing.T) {
	t.Parallel()
	t.Run("TCP", func(t *testing.T) {
		t.Parallel()
		m, l := tunneltest.NewMemory("raw")
		defer m.Close()
		done := make(chan Finished, 1)
		var offline atomic.Bool
		d := NewTCP(TCPOptions{
			Router: routeFunc(func(string) (Target, error) {
				if offline.Load() {
					return Target{}, ErrOffline
				}
				return Target{Tunnel: m, Service: "ssh"}, nil
			}),
			Addr:    netip.MustParseAddr("127.0.0.1"),
			Ports:   []PortRange{{First: 27200, Last: 27299}},
			OnVisit: func(f Finished) { done <- f },
		})
		defer d.Close()
		addr, release, err := d.ListenAny("raw", netip.Addr{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		from := addrPort(c.LocalAddr())
		io.WriteString(c, "abc")
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		in.(tunnel.Incoming).Accept()
		io.ReadFull(in, make([]byte, 3))
		io.WriteString(in, "hello")
		in.Close()
		io.ReadAll(c)
		c.Close()
		f := wait(t, "OnVisit", done)
		if f.Remote != from || f.Proto != ProtoTCP || f.Host != fmt.Sprintf(":%d", addr.Port()) || f.ID != "raw" || f.Service != "ssh" ||
			f.Code != "" || f.Received != 3 || f.Sent != 5 || f.Duration <= 0 || f.Status != 0 {
			t.Errorf("got %+v", f)
		}

		offline.Store(true)
		if c, err = net.Dial("tcp", addr.String()); err == nil { // or it is reset already
			io.ReadAll(c)
			c.Close()
		}
		if f := wait(t, "OnVisit", done); f.Code != "agent-offline" || f.ID != "" || f.Sent != 0 {
			t.Errorf("without a stream: got %+v", f)
		}
	})
	t.Run("TLS", func(t *testing.T) {
		t.Parallel()
		m, l := tunneltest.NewMemory("db")
		defer m.Close()
		done := make(chan Finished, 1)
		d := openDoor(t, names{"db.example.com": {Tunnel: m, Service: "pg", TLS: true}}, func(o *TLSOptions, _ *HTTPOptions) {
			o.OnVisit = func(f Finished) { done <- f }
		})
		hello := helloOf(t, &tls.Config{ServerName: "db.example.com"})
		c, err := net.Dial("tcp", d.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(hello)
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		in.(tunnel.Incoming).Accept()
		io.ReadFull(in, make([]byte, len(hello)))
		io.WriteString(in, "no")
		in.Close()
		io.ReadAll(c)
		c.Close()
		if f := wait(t, "OnVisit", done); f.Proto != ProtoTLS || f.Host != "db.example.com" || f.ID != "db" || f.Service != "pg" ||
			f.Received != int64(len(hello)) || f.Sent != 2 || f.Code != "" {
			t.Errorf("got %+v", f)
		}
	})
}
