package ingress_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"adit/ingress"
	"adit/internal/testdatagrams"
	"adit/internal/testport"
	"adit/policy"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

const patience = 20 * time.Second

// udpDoor is a UDP ingress in front of an in-memory tunnel, whose agent sends
// all datagrams back unless quiet says otherwise.
type udpDoor struct {
	*ingress.UDP
	tun   *tunneltest.Memory
	at    netip.AddrPort
	opens atomic.Int32
	keys  sync.Map // that the router was asked for
	quiet atomic.Bool
}

func newUDPDoor(t *testing.T, opts ingress.UDPOptions) *udpDoor {
	t.Helper()
	return newGuardedUDPDoor(t, opts, nil)
}

func newUDPDoorOn(t *testing.T, on netip.Addr) *udpDoor {
	t.Helper()
	return startUDPDoor(t, ingress.UDPOptions{Addr: on}, nil)
}

func newGuardedUDPDoor(t *testing.T, opts ingress.UDPOptions, g *policy.Guard) *udpDoor {
	t.Helper()
	opts.Addr = loopback
	return startUDPDoor(t, opts, g)
}

func startUDPDoor(t *testing.T, opts ingress.UDPOptions, g *policy.Guard) *udpDoor {
	t.Helper()
	d := &udpDoor{}
	var ln net.Listener
	d.tun, ln = tunneltest.NewMemory("mem")
	t.Cleanup(func() { d.tun.Close() })
	if opts.Router == nil {
		opts.Router = routerFunc(func(_ context.Context, key string) (ingress.Target, error) {
			d.keys.Store(key, true)
			return ingress.Target{Tunnel: d.tun, Service: "dns", Policy: g}, nil
		})
	}
	var agent sync.WaitGroup
	agent.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			d.opens.Add(1)
			if c.(tunnel.Incoming).Accept() != nil {
				continue
			}
			agent.Go(func() { d.echo(c) })
		}
	})
	opts.Ports = []ingress.PortRange{{First: 1024, Last: 65535}}
	d.UDP = ingress.NewUDP(opts)
	port := testport.One(t)
	at, release, err := d.Listen("mem", port, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	d.at = at
	t.Cleanup(func() {
		release()
		d.Close()
		if n := d.Visitors(); n != 0 {
			t.Errorf("%d visitors are left", n)
		}
		ln.Close()
		agent.Wait()
	})
	return d
}

func (d *udpDoor) echo(c net.Conn) {
	defer c.Close()
	for {
		b, err := testdatagrams.Read(c)
		if err != nil {
			return
		}
		if !d.quiet.Load() && testdatagrams.Write(c, b) != nil {
			return
		}
	}
}

// visitor returns a socket from which everything goes to the port.
func (d *udpDoor) visitor(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", d.at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// tell sends a datagram and returns what comes back within a time.
func tell(t *testing.T, c net.Conn, text string, within time.Duration) (string, error) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(within))
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// eventually waits until f holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v still not: %s", patience, what)
		}
	}
}

func TestUDPRelays(t *testing.T) {
	t.Parallel()
	done := make(chan ingress.Finished, 1)
	d := newUDPDoor(t, ingress.UDPOptions{Idle: 2 * time.Second, OnVisit: func(f ingress.Finished) { done <- f }})
	v := d.visitor(t)
	for _, text := range []string{"a", "", strings.Repeat("b", 65507), "c"} {
		if got, err := tell(t, v, text, patience); got != text {
			t.Fatalf("got %.20q, %v, want %.20q", got, err, text)
		}
	}
	select {
	case f := <-done:
		if want := int64(65509); f.Remote != v.LocalAddr().(*net.UDPAddr).AddrPort() || f.Proto != ingress.ProtoUDP || f.ID != "mem" || f.Service != "dns" ||
			f.Host != fmt.Sprintf(":%d/udp", d.at.Port()) || f.Received != want || f.Sent != want || f.Code != "" {
			t.Errorf("got %+v", f)
		}
	case <-time.After(patience):
		t.Fatal("a visitor that is quiet is not forgotten")
	}
	if _, ok := d.keys.Load(fmt.Sprintf(":%d/udp", d.at.Port())); !ok {
		t.Error("the router was asked for something else")
	}
	if got, err := tell(t, v, "again", patience); got != "again" {
		t.Errorf("got %q, %v from who was forgotten", got, err)
	}
	if n := d.opens.Load(); n != 2 {
		t.Errorf("%d streams, want 2", n)
	}
}

// A visitor whom a policy keeps out hears nothing, and no stream is opened.
func TestUDPPolicy(t *testing.T) {
	t.Parallel()
	local := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, tt := range []struct {
		name           string
		server, tunnel *policy.Policy
		want           []bool // visitors in turn
	}{
		{"allowed", nil, &policy.Policy{AllowIP: local}, []bool{true}},
		{"denied", nil, &policy.Policy{DenyIP: local}, []bool{false}},
		{"denied by the server", &policy.Policy{DenyIP: local}, nil, []bool{false}},
		{"rate", nil, &policy.Policy{Rate: policy.Rate{Count: 1, Per: time.Hour, Burst: 2}}, []bool{true, true, false}},
		{"rate of the server", &policy.Policy{TotalRate: policy.Rate{Count: 1, Per: time.Hour, Burst: 1}}, nil, []bool{true, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var g *policy.Guard
			if tt.tunnel != nil {
				g = guardOf(t, *tt.tunnel)
			}
			d := newGuardedUDPDoor(t, ingress.UDPOptions{}, g)
			if tt.server != nil {
				d.SetPolicy(guardOf(t, *tt.server))
			}
			let := int32(0)
			for i, want := range tt.want {
				v := d.visitor(t)
				if want {
					let++
					for range 3 { // of which the first counts
						if got, err := tell(t, v, "x", patience); err != nil {
							t.Errorf("visitor %d: got %q, %v, want an answer", i+1, got, err)
						}
					}
					continue
				}
				before := d.Stats()
				v.Write([]byte("x"))
				eventually(t, "the visitor is refused", func() bool {
					s := d.Stats()
					return s.Failed["rate-limited"]+s.Failed["address-not-allowed"] > before.Failed["rate-limited"]+before.Failed["address-not-allowed"]
				})
				if got, err := tell(t, v, "x", 50*time.Millisecond); err == nil {
					t.Errorf("visitor %d: got %q, want nothing", i+1, got)
				}
			}
			if n := d.opens.Load(); n != let {
				t.Errorf("%d streams were opened, want %d", n, let)
			}
		})
	}
}

// Senders that nobody answers, as those that are made up, do not cost more than
// so much, and do not keep out those who may enter.
func TestUDPFlood(t *testing.T) {
	t.Parallel()
	const places, senders = 50, 3000
	var visits atomic.Int32
	var regular net.Conn
	var forgotten atomic.Bool // who was there before the flood
	d := newUDPDoor(t, ingress.UDPOptions{MaxVisitorsPerPort: places, OnVisit: func(f ingress.Finished) {
		visits.Add(1)
		if f.Remote == regular.LocalAddr().(*net.UDPAddr).AddrPort() {
			forgotten.Store(true)
		}
	}})
	regular = d.visitor(t)
	if got, err := tell(t, regular, "x", patience); got != "x" {
		t.Fatalf("got %q, %v", got, err)
	}
	d.quiet.Store(true)
	before := runtime.NumGoroutine()
	begin := time.Now()
	flood := make([]byte, 1000)
	for i := range senders {
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 1, byte(i))}, net.UDPAddrFromAddrPort(d.at))
		if err != nil {
			t.Fatal(err)
		}
		c.Write(flood)
		c.Close()
		if n := d.Visitors(); n > places {
			t.Fatalf("%d visitors, want %d at most", n, places)
		}
	}
	seconds := int32(time.Since(begin)/time.Second) + 1
	if n := d.opens.Load(); n > places*(seconds+1) {
		t.Errorf("%d streams in %d s, want %d for each at most", n, seconds, places)
	}
	if n := runtime.NumGoroutine() - before; n > 10*places+1000 { // other tests have some too
		t.Errorf("%d goroutines more", n)
	}
	d.quiet.Store(false)
	eventually(t, "who was answered before the flood is answered", func() bool { // the kernel may drop some behind it
		got, _ := tell(t, regular, "y", 100*time.Millisecond)
		return got == "y"
	})
	if forgotten.Load() {
		t.Error("who was answered before the flood was forgotten")
	}
	newcomer := d.visitor(t)
	eventually(t, "a newcomer is answered", func() bool {
		got, _ := tell(t, newcomer, "z", 100*time.Millisecond)
		return got == "z"
	})
	s := d.Stats()
	if s.Dropped == 0 || s.DatagramsReceived < s.Dropped {
		t.Errorf("%d of %d datagrams were dropped, want some", s.Dropped, s.DatagramsReceived)
	}
	if n := visits.Load(); n > 100*(seconds+20) {
		t.Errorf("%d visits were told of in %d s", n, seconds)
	}
}

// A service that is not there is not asked for each datagram.
func TestUDPWithoutStream(t *testing.T) {
	t.Parallel()
	var asked, told atomic.Int32
	d := newUDPDoor(t, ingress.UDPOptions{
		Router: routerFunc(func(context.Context, string) (ingress.Target, error) {
			asked.Add(1)
			return ingress.Target{}, ingress.ErrOffline
		}),
		OnVisit: func(f ingress.Finished) {
			if f.Code == "agent-offline" && f.ID == "" {
				told.Add(1)
			}
		},
	})
	v := d.visitor(t)
	for range 1000 {
		v.Write([]byte("x"))
	}
	eventually(t, "all have come", func() bool { return d.Stats().DatagramsReceived == 1000 })
	if n := asked.Load(); n > 2 {
		t.Errorf("the router was asked %d times, want once in a second", n)
	}
	eventually(t, "it is asked again", func() bool { v.Write([]byte("x")); return asked.Load() >= 2 })
	eventually(t, "the visits are told of", func() bool { return told.Load() >= 2 })
}

// Shutdown lets visitors finish what they are at, and takes no others.
func TestUDPShutdown(t *testing.T) {
	t.Parallel()
	d := newUDPDoor(t, ingress.UDPOptions{})
	v := d.visitor(t)
	if got, err := tell(t, v, "x", patience); got != "x" {
		t.Fatalf("got %q, %v", got, err)
	}
	down := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		down <- d.Shutdown(ctx)
	}()
	eventually(t, "no port is opened", func() bool {
		_, release, err := d.Listen("mem", 1024, netip.Addr{})
		if err == nil {
			release()
		}
		return errors.Is(err, net.ErrClosed)
	})
	for range 30 { // who goes on is served
		if got, err := tell(t, v, "y", patience); got != "y" {
			t.Fatalf("got %q, %v", got, err)
		}
		select {
		case err := <-down:
			t.Fatalf("it is down with a visitor at work: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	if got, err := tell(t, d.visitor(t), "new", 100*time.Millisecond); err == nil {
		t.Errorf("a new visitor got %q", got)
	}
	select {
	case err := <-down:
		if err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	case <-time.After(patience):
		t.Error("it waits for a visitor that is quiet")
	}
	pc, err := net.ListenPacket("udp", d.at.String())
	if err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	pc.Close()

	d = newUDPDoor(t, ingress.UDPOptions{})
	v = d.visitor(t)
	if got, err := tell(t, v, "x", patience); got != "x" {
		t.Fatalf("got %q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.Shutdown(ctx); !errors.Is(err, context.Canceled) || d.Visitors() != 0 {
		t.Errorf("got %v with %d visitors, want them cut", err, d.Visitors())
	}
}

func TestUDPListen(t *testing.T) {
	t.Parallel()
	d := newUDPDoor(t, ingress.UDPOptions{})
	if _, _, err := d.Listen("other", d.at.Port(), netip.Addr{}); !errors.Is(err, ingress.ErrPortInUse) {
		t.Errorf("another name: got %v, want ErrPortInUse", err)
	}
	if _, _, err := d.Listen("mem", d.at.Port(), netip.MustParseAddr("127.0.0.2")); !errors.Is(err, ingress.ErrAddrNotAllowed) {
		t.Errorf("another address: got %v, want ErrAddrNotAllowed", err)
	}
	same, release, err := d.Listen("mem", d.at.Port(), netip.MustParseAddr("::ffff:127.0.0.1"))
	if err != nil || same != d.at {
		t.Fatalf("got %v, %v, want the same port", same, err)
	}
	release()
	if got, err := tell(t, d.visitor(t), "x", patience); got != "x" {
		t.Errorf("got %q, %v from a port that is still held", got, err)
	}
	foreign, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	if _, _, err := d.Listen("mem", foreign.LocalAddr().(*net.UDPAddr).AddrPort().Port(), netip.Addr{}); !errors.Is(err, ingress.ErrPortInUse) {
		t.Errorf("port of another program: got %v, want ErrPortInUse", err)
	}
}
