package ingress_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"adit/ingress"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// routerFunc is a Router.
type routerFunc func(ctx context.Context, key string) (ingress.Target, error)

func (f routerFunc) Route(ctx context.Context, key string) (ingress.Target, error) {
	return f(ctx, key)
}

// tcpRange returns a range of ports that are likely free.
func tcpRange(t testing.TB, n int) ingress.PortRange {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	first := ln.Addr().(*net.TCPAddr).Port
	if first+n > 65535 {
		first -= n
	}
	return ingress.PortRange{First: uint16(first), Last: uint16(first + n - 1)}
}

// tcpDoor is a TCP ingress in front of an in-memory tunnel.
type tcpDoor struct {
	*ingress.TCP
	tun  *tunneltest.Memory
	ln   net.Listener // the agent's
	addr string
	port uint16

	mu   sync.Mutex
	keys []string // that the router was asked for
}

func newTCPDoor(t *testing.T, opts ingress.TCPOptions) *tcpDoor {
	t.Helper()
	d := &tcpDoor{}
	d.tun, d.ln = tunneltest.NewMemory("mem")
	t.Cleanup(func() { d.tun.Close() })
	if opts.Router == nil {
		opts.Router = routerFunc(func(_ context.Context, key string) (ingress.Target, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.keys = append(d.keys, key)
			return ingress.Target{Tunnel: d.tun, Service: "ssh"}, nil
		})
	}
	opts.Addr = loopback
	opts.Ports = []ingress.PortRange{tcpRange(t, 50)}
	d.TCP = ingress.NewTCP(opts)
	t.Cleanup(func() { d.Close() })
	addr, release, err := d.ListenAny("mem", netip.Addr{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	d.addr, d.port = addr.String(), addr.Port()
	return d
}

func (d *tcpDoor) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c.(*net.TCPConn)
}

func (d *tcpDoor) accept(t *testing.T) tunnel.Incoming {
	t.Helper()
	c, err := d.ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c.(tunnel.Incoming)
}

func TestTCPRelays(t *testing.T) {
	t.Parallel()
	d := newTCPDoor(t, ingress.TCPOptions{})
	visitor := d.dial(t)
	in := d.accept(t)
	want := tunnel.StreamInfo{
		Service:  "ssh",
		Protocol: "tcp",
		Visitor:  visitor.LocalAddr().(*net.TCPAddr).AddrPort(),
		Local:    visitor.RemoteAddr().(*net.TCPAddr).AddrPort(),
	}
	if got := in.Info(); got != want {
		t.Errorf("Info: got %+v, want %+v", got, want)
	}
	d.mu.Lock()
	if key := fmt.Sprintf(":%d", d.port); len(d.keys) != 1 || d.keys[0] != key {
		t.Errorf("the router was asked for %q, want %q", d.keys, key)
	}
	d.mu.Unlock()

	// The agent speaks first, then the visitor, which half-closes.
	io.WriteString(in, "banner")
	got := make([]byte, 6)
	if _, err := io.ReadFull(visitor, got); err != nil || string(got) != "banner" {
		t.Fatalf("visitor: got %q, %v, want %q", got, err, "banner")
	}
	io.WriteString(visitor, "question")
	visitor.CloseWrite()
	if b, err := io.ReadAll(in); err != nil || string(b) != "question" {
		t.Fatalf("agent: got %q, %v, want %q", b, err, "question")
	}
	io.WriteString(in, "answer")
	in.Close()
	if b, err := io.ReadAll(visitor); err != nil || string(b) != "answer" {
		t.Fatalf("visitor: got %q, %v, want %q", b, err, "answer")
	}
}

// wantDialReset dials and wants a reset, which may be as early as in the dial.
func (d *tcpDoor) wantDialReset(t *testing.T) {
	t.Helper()
	c, err := net.Dial("tcp", d.addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	wantTCPReset(t, c)
}

func wantTCPReset(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("visitor: got %v, want %v", err, syscall.ECONNRESET)
	}
}

func TestTCPResets(t *testing.T) {
	t.Parallel()
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		d := newTCPDoor(t, ingress.TCPOptions{})
		visitor := d.dial(t)
		d.accept(t).Refuse(tunnel.RefuseUpstreamRefused, "no")
		wantTCPReset(t, visitor)
	})
	t.Run("reset by agent", func(t *testing.T) {
		t.Parallel()
		d := newTCPDoor(t, ingress.TCPOptions{})
		visitor := d.dial(t)
		d.accept(t).(tunnel.Resetter).Reset(tunnel.ResetUpstream, "gone")
		wantTCPReset(t, visitor)
	})
	t.Run("reset by visitor", func(t *testing.T) {
		t.Parallel()
		d := newTCPDoor(t, ingress.TCPOptions{})
		visitor := d.dial(t)
		in := d.accept(t)
		in.Accept()
		visitor.SetLinger(0)
		visitor.Close()
		_, err := in.Read(make([]byte, 1))
		if reset, ok := errors.AsType[*tunnel.ResetError](err); !ok || reset.Code != tunnel.ResetCancelled {
			t.Errorf("agent: got %v, want a reset with code %v", err, tunnel.ResetCancelled)
		}
	})
	t.Run("no tunnel", func(t *testing.T) {
		t.Parallel()
		d := newTCPDoor(t, ingress.TCPOptions{Router: routerFunc(func(context.Context, string) (ingress.Target, error) {
			return ingress.Target{}, ingress.ErrOffline
		})})
		d.wantDialReset(t)
	})
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		d := newTCPDoor(t, ingress.TCPOptions{Idle: 50 * time.Millisecond})
		visitor := d.dial(t)
		in := d.accept(t)
		wantTCPReset(t, visitor)
		_, err := in.Read(make([]byte, 1))
		if reset, ok := errors.AsType[*tunnel.ResetError](err); !ok || reset.Code != tunnel.ResetTimeout {
			t.Errorf("agent: got %v, want a reset with code %v", err, tunnel.ResetTimeout)
		}
	})
}

// A tunnel that ended after it was chosen is not the end for the visitor.
func TestTCPFailsOver(t *testing.T) {
	t.Parallel()
	dead, _ := tunneltest.NewMemory("dead")
	dead.Close()
	live, ln := tunneltest.NewMemory("live")
	defer live.Close()
	first := true
	var mu sync.Mutex
	d := newTCPDoor(t, ingress.TCPOptions{Router: routerFunc(func(context.Context, string) (ingress.Target, error) {
		mu.Lock()
		defer mu.Unlock()
		if first {
			first = false
			return ingress.Target{Tunnel: dead}, nil
		}
		return ingress.Target{Tunnel: live}, nil
	})})
	visitor := d.dial(t)
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "hello")
	if _, err := io.ReadFull(visitor, make([]byte, 5)); err != nil {
		t.Errorf("visitor: %v", err)
	}
}

func TestTCPLimits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		opts ingress.TCPOptions
	}{
		{"in all", ingress.TCPOptions{MaxVisitors: 2}},
		{"per port", ingress.TCPOptions{MaxVisitorsPerPort: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := newTCPDoor(t, tt.opts)
			first, second := d.dial(t), d.dial(t)
			in := []tunnel.Incoming{d.accept(t), d.accept(t)}
			d.wantDialReset(t)

			first.Close()
			second.Close()
			for _, c := range in {
				io.Copy(io.Discard, c)
				c.Close()
			}
			go func() { // ends with the tunnel
				for {
					c, err := d.ln.Accept()
					if err != nil {
						return
					}
					io.WriteString(c, "welcome")
					c.Close()
				}
			}()
			for { // until the first two have been forgotten
				c, err := net.Dial("tcp", d.addr)
				if err == nil {
					c.SetDeadline(time.Now().Add(time.Minute))
					_, err = io.ReadFull(c, make([]byte, len("welcome")))
					c.Close()
				}
				if err == nil {
					return
				}
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Fatalf("visitor: got %v", err)
				}
			}
		})
	}
}

func TestTCPListen(t *testing.T) {
	t.Parallel()
	ports := tcpRange(t, 20)
	door := ingress.NewTCP(ingress.TCPOptions{
		Addr: loopback, Ports: []ingress.PortRange{ports},
		Router: routerFunc(func(context.Context, string) (ingress.Target, error) {
			return ingress.Target{}, ingress.ErrNoRoute
		}),
	})
	defer door.Close()

	addr, release, err := door.ListenAny("a", netip.Addr{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p := addr.Port(); addr.Addr() != loopback || p < ports.First || p > ports.Last {
		t.Errorf("ListenAny: got %v, want a port of %v", addr, ports)
	}
	same, releaseSame, err := door.Listen("a", addr.Port(), netip.Addr{})
	if err != nil || same != addr {
		t.Fatalf("second binding: got %v, %v, want %v", same, err, addr)
	}
	if _, _, err := door.Listen("b", addr.Port(), netip.Addr{}); !errors.Is(err, ingress.ErrPortInUse) {
		t.Errorf("another name: got %v, want %v", err, ingress.ErrPortInUse)
	}
	if _, _, err := door.Listen("a", ports.First-1, netip.Addr{}); !errors.Is(err, ingress.ErrPortNotAllowed) {
		t.Errorf("outside: got %v, want %v", err, ingress.ErrPortNotAllowed)
	}
	if _, _, err := door.Listen("a", 0, netip.Addr{}); !errors.Is(err, ingress.ErrPortNotAllowed) {
		t.Errorf("port 0: got %v, want %v", err, ingress.ErrPortNotAllowed)
	}
	if _, _, err := door.ListenAny("a", netip.Addr{}, func(uint16) bool { return false }); !errors.Is(err, ingress.ErrNoPort) {
		t.Errorf("all ruled out: got %v, want %v", err, ingress.ErrNoPort)
	}

	release()
	release() // again: nothing
	if c, err := net.Dial("tcp", addr.String()); errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the port is closed while it has a binding: %v", err)
	} else if err == nil {
		c.Close()
	}
	releaseSame()
	if c, err := net.Dial("tcp", addr.String()); err == nil {
		c.Close()
		t.Error("the port is open without a binding")
	}

	// Open and close by many at once: it is always one or the other.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				_, release, err := door.Listen("a", addr.Port(), netip.Addr{})
				if err != nil {
					t.Errorf("Listen: %v", err)
					return
				}
				release()
			}
		})
	}
	wg.Wait()

	other, err := net.Listen("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, _, err := door.Listen("a", addr.Port(), netip.Addr{}); !errors.Is(err, ingress.ErrPortInUse) {
		t.Errorf("another program: got %v, want %v", err, ingress.ErrPortInUse)
	}
	door.Close()
	if _, _, err := door.Listen("a", addr.Port(), netip.Addr{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: got %v, want %v", err, net.ErrClosed)
	}
}

func TestTCPNoPorts(t *testing.T) {
	t.Parallel()
	door := ingress.NewTCP(ingress.TCPOptions{Addr: loopback})
	defer door.Close()
	if _, _, err := door.Listen("a", 2222, netip.Addr{}); !errors.Is(err, ingress.ErrPortNotAllowed) {
		t.Errorf("Listen: got %v, want %v", err, ingress.ErrPortNotAllowed)
	}
	if _, _, err := door.ListenAny("a", netip.Addr{}, nil); !errors.Is(err, ingress.ErrNoPort) {
		t.Errorf("ListenAny: got %v, want %v", err, ingress.ErrNoPort)
	}
}

func TestTCPShutdown(t *testing.T) {
	t.Parallel()
	t.Run("drains", func(t *testing.T) {
		t.Parallel()
		d := newTCPDoor(t, ingress.TCPOptions{})
		visitor := d.dial(t)
		in := d.accept(t)
		in.Accept()
		done := make(chan error, 1)
		go func() { done <- d.Shutdown(t.Context()) }()
		for { // until the port is closed
			c, err := net.Dial("tcp", d.addr)
			if errors.Is(err, syscall.ECONNREFUSED) {
				break
			}
			if err == nil {
				c.(*net.TCPConn).SetLinger(0) // it may have been let in
				c.Close()
			}
		}
		io.WriteString(visitor, "still")
		if _, err := io.ReadFull(in, make([]byte, 5)); err != nil {
			t.Errorf("agent: %v", err)
		}
		in.Close()
		visitor.Close()
		if err := <-done; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	t.Run("does not wait for ever", func(t *testing.T) {
		t.Parallel()
		held := make(chan struct{})
		d := newTCPDoor(t, ingress.TCPOptions{Router: routerFunc(func(ctx context.Context, _ string) (ingress.Target, error) {
			close(held)
			<-ctx.Done()
			return ingress.Target{}, ctx.Err()
		})})
		visitor := d.dial(t)
		<-held
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Shutdown(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Shutdown: got %v, want %v", err, context.Canceled)
		}
		wantTCPReset(t, visitor)
	})
	t.Run("close while nobody reads", func(t *testing.T) {
		t.Parallel()
		d := newTCPDoor(t, ingress.TCPOptions{})
		visitor := d.dial(t)
		in := d.accept(t)
		in.Accept()
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, err := visitor.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		})
		io.ReadFull(in, make([]byte, 1))
		d.Close() // returns, although the stream's reader has stopped
		wg.Wait()
	})
}
