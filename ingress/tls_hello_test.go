package ingress

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"adit/internal/testhello"
	"adit/policy"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// fixedGuests are guests by name.
type fixedGuests map[string]*Guest

func (g fixedGuests) Guest(_ context.Context, name string, _ netip.AddrPort) *Guest { return g[name] }

// echoVisit is a guest that sends back what it gets.
func echoVisit(_ context.Context, conn net.Conn, raw []byte) (Visited, error) {
	met := Visited{ID: "guest"}
	if _, err := conn.Write(raw); err == nil {
		met.Sent = int64(len(raw))
		met.Received, _ = io.Copy(conn, conn)
	}
	conn.Close()
	return met, nil
}

// echoTunnel leads to an upstream that sends back what it gets.
func echoTunnel(t testing.TB) *tunneltest.Memory {
	m, l := tunneltest.NewMemory("echo")
	var wg sync.WaitGroup
	t.Cleanup(func() { m.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				if in, ok := c.(tunnel.Incoming); ok && in.Accept() != nil {
					return
				}
				io.Copy(c, c)
			})
		}
	})
	return m
}

// Each kind of first message is treated as every door for TLS does, whether a
// tunnel or a guest has the name.
func TestHellos(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]names{
		"tunnel": {"www.example.com": {Tunnel: echoTunnel(t), TLS: true}},
		"guest":  {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openDoor(t, n, func(o *TLSOptions, _ *HTTPOptions) {
				o.Certificates = nil
				if name == "guest" {
					o.Guests = fixedGuests{"www.example.com": {Visit: echoVisit}}
				}
			})
			testhello.Run(t, func() net.Conn { return dial(t, d.addr).Conn }, "www.example.com")
		})
	}
}

// The rules for all visitors are those of guests' visitors too, and a guest that
// has nobody for a visitor says so.
func TestGuestRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		rules policy.Policy
		visit error
		want  string
	}{
		{"address", policy.Policy{DenyIP: loopbackPrefixes}, nil, "access denied"},
		{"offline", policy.Policy{}, tunnel.ErrOffline, "internal error"},
	} {
		d := openDoor(t, names{}, func(o *TLSOptions, _ *HTTPOptions) {
			o.Guests = fixedGuests{"www.example.com": {Visit: func(ctx context.Context, conn net.Conn, raw []byte) (Visited, error) {
				if tt.visit == nil {
					return echoVisit(ctx, conn, raw)
				}
				return Visited{}, tt.visit
			}}}
		})
		g, err := policy.NewGuard("", tt.rules)
		if err != nil {
			t.Fatal(err)
		}
		d.tls.SetPolicy(g)
		c := dial(t, d.addr)
		err = tls.Client(c.Conn, d.config("www.example.com")).HandshakeContext(t.Context())
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an alert %q", tt.name, err, tt.want)
		}
	}
}

// A guest for the rest gets nobody for whom there is a tunnel or a certificate.
func TestGuestOfTheRest(t *testing.T) {
	t.Parallel()
	site := echoSite(t)
	d := openDoor(t, names{"web.example.com": {Tunnel: site}}, func(o *TLSOptions, _ *HTTPOptions) {
		o.Guests = fixedGuests{"web.example.com": {Rest: true, Visit: echoVisit}, "else.test": {Rest: true, Visit: echoVisit}}
	})
	c := d.dial(d.config("web.example.com"))
	c.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
	if resp, _ := c.response("GET"); resp.StatusCode != 200 {
		t.Errorf("a name with a certificate: got %d, want 200", resp.StatusCode)
	}
	hello := helloOf(t, d.config("else.test"))
	raw := dial(t, d.addr)
	raw.Conn.Write(hello)
	got := make([]byte, len(hello))
	if _, err := io.ReadFull(raw.Conn, got); err != nil || !bytes.Equal(got, hello) {
		t.Errorf("another name: got %x, %v, want the first message back", got, err)
	}
}
