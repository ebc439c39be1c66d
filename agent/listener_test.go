package agent_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"adit/agent"
	"adit/dialect"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// A memoryListener is a listener with a tunnel in memory that leads to it.
func memoryListener(t *testing.T, backlog int) (*tunneltest.Memory, *agent.Listener) {
	t.Helper()
	tun, far := tunneltest.NewMemory("mem")
	ln := agent.NewListener("test", backlog)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := far.Accept()
			if err != nil {
				return
			}
			ln.Deliver(c.(tunnel.Incoming))
		}
	})
	t.Cleanup(func() {
		ln.Close()
		tun.Close()
		wg.Wait()
	})
	return tun, ln
}

func TestListenerConn(t *testing.T) {
	t.Parallel()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		tun, far := tunneltest.NewMemory("mem")
		ln := agent.NewListener("test", 0)
		var wg sync.WaitGroup
		wg.Go(func() {
			in, err := far.Accept()
			if err == nil {
				ln.Deliver(in.(tunnel.Incoming))
			}
		})
		c1, err = tun.OpenEarly(tunnel.StreamInfo{})
		if err != nil {
			return nil, nil, nil, err
		}
		c2, err = ln.Accept()
		return c1, c2, func() {
			ln.Close()
			tun.Close()
			wg.Wait()
		}, err
	})
}

func TestListenerAddrs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                string
		info                tunnel.StreamInfo
		remote, local, host string
	}{
		{
			"known",
			tunnel.StreamInfo{Visitor: netip.MustParseAddrPort("203.0.113.9:4711"), Local: netip.MustParseAddrPort("[2001:db8::1]:443"), Host: "shop.example.com"},
			"203.0.113.9:4711", "[2001:db8::1]:443", "shop.example.com",
		},
		{"unknown", tunnel.StreamInfo{}, "0.0.0.0:0", "test", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tun, ln := memoryListener(t, 0)
			near, err := tun.OpenEarly(tt.info)
			if err != nil {
				t.Fatal(err)
			}
			defer near.Close()
			c, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, ok := c.RemoteAddr().(*net.TCPAddr); !ok || c.RemoteAddr().String() != tt.remote {
				t.Errorf("RemoteAddr: %T %v, want the TCP address %s", c.RemoteAddr(), c.RemoteAddr(), tt.remote)
			}
			if got := c.LocalAddr().String(); got != tt.local {
				t.Errorf("LocalAddr: %s, want %s", got, tt.local)
			}
			if got := c.(*agent.Conn).Host(); got != tt.host {
				t.Errorf("Host: %q, want %q", got, tt.host)
			}
		})
	}
}

// Whoever comes when the backlog is full, and whoever is in it when the
// listener is closed, is told so.
func TestListenerRefuses(t *testing.T) {
	t.Parallel()
	tun, ln := memoryListener(t, 2)
	open := func() <-chan error {
		opened := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			c, err := tun.OpenStream(ctx, tunnel.StreamInfo{})
			if err == nil {
				c.Close()
			}
			opened <- err
		}()
		return opened
	}
	// Of three, one finds the backlog full.
	all := []<-chan error{open(), open(), open()}
	code := func(err error) tunnel.RefuseCode {
		re, _ := errors.AsType[*tunnel.RefusedError](err)
		if re == nil {
			t.Fatalf("OpenStream: %v, want a refusal", err)
		}
		return re.Code
	}
	var first error
	select {
	case first = <-all[0]:
		all = all[1:]
	case first = <-all[1]:
		all = []<-chan error{all[0], all[2]}
	case first = <-all[2]:
		all = all[:2]
	case <-time.After(patience):
		t.Fatal("nobody was refused")
	}
	if got := code(first); got != tunnel.RefuseBusy {
		t.Errorf("with a full backlog: %v, want %v", got, tunnel.RefuseBusy)
	}
	ln.Close()
	ln.Close()
	for _, opened := range append(all, open()) {
		if got := code(<-opened); got != tunnel.RefuseDraining {
			t.Errorf("after Close: %v, want %v", got, tunnel.RefuseDraining)
		}
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v, want %v", err, net.ErrClosed)
	}
}

// A stream of a visitor who left while it waited.
type leftStream struct {
	tunnel.Incoming
	closed bool
}

func (s *leftStream) Accept() error { return &tunnel.ResetError{Code: tunnel.ResetCancelled} }
func (s *leftStream) Close() error  { s.closed = true; return nil }

// A visitor who has left while it waited is not accepted.
func TestListenerSkipsWhoLeft(t *testing.T) {
	t.Parallel()
	tun, ln := memoryListener(t, 0)
	left := new(leftStream)
	ln.Deliver(left)
	stays, err := tun.OpenEarly(tunnel.StreamInfo{Host: "stays"})
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.(*agent.Conn).Host(); got != "stays" || !left.closed {
		t.Errorf("accepted %q, the first closed: %v; want the visitor who stays, and the other closed", got, left.closed)
	}
}

// Close ends an Accept that waits.
func TestListenerCloseDuringAccept(t *testing.T) {
	t.Parallel()
	_, ln := memoryListener(t, 0)
	accepted := make(chan error, 1)
	go func() {
		_, err := ln.Accept()
		accepted <- err
	}()
	ln.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v, want %v", err, net.ErrClosed)
	}
}

func TestHandlerUpstream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ln := agent.NewListener("test", 0)
	served := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(answerPath)}
	go func() { srv.Serve(ln); close(served) }()
	t.Cleanup(func() { srv.Close(); <-served })
	r := run(t, f.options(agent.Tunnel{ID: "app", Kind: dialect.HTTP, Upstream: ln.Upstream()}))
	r.until(agent.Connected)
	f.want("/app/some/page", "you asked for /some/page")

	srv.Shutdown(t.Context()) // closes the listener, and conns that are kept for more requests
	if status, code, _ := f.get("/app/"); status != 503 || code != "draining" {
		t.Errorf("after Close: %d %s, want 503 draining", status, code)
	}
}

func TestBusyUpstream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ln := agent.NewListener("test", 1)
	t.Cleanup(func() { ln.Close() })
	r := run(t, f.options(
		agent.Tunnel{ID: "app", Kind: dialect.HTTP, Upstream: ln.Upstream()},
		agent.Tunnel{ID: "raw", Kind: dialect.TCP, Upstream: ln.Upstream()},
	))
	port := r.until(agent.Connected).Bound[1].Port

	// Nobody accepts these two: one fills the backlog, whichever is faster, and
	// the other is refused.
	waits := f.visit(port)
	if c, err := net.Dial("tcp", waits.RemoteAddr().String()); err == nil { // or refused already
		other := c.(*net.TCPConn)
		defer other.Close()
		other.SetDeadline(time.Now().Add(patience))
		ended := make(chan *net.TCPConn, 2)
		for _, c := range []*net.TCPConn{waits, other} {
			go func() {
				c.Read(make([]byte, 1))
				ended <- c
			}()
		}
		if <-ended == waits {
			waits, other = other, waits
		}
		waits.SetReadDeadline(time.Unix(1, 0)) // ends the Read of the one that waits
		<-ended
		waits.SetReadDeadline(time.Now().Add(patience))
	}
	if status, code, _ := f.get("/app/"); status != 503 || code != "busy" {
		t.Fatalf("with a full backlog: %d %s, want 503 busy", status, code)
	}
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.RemoteAddr().String(); got != waits.LocalAddr().String() {
		t.Errorf("RemoteAddr: %s, want the visitor's, %s", got, waits.LocalAddr())
	}
	io.WriteString(waits, "hello")
	waits.CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
		t.Errorf("read %q, %v; want hello and the end", b, err)
	}
	io.WriteString(c, "bye")
	c.Close()
	if b, err := io.ReadAll(waits); string(b) != "bye" || err != nil {
		t.Errorf("the visitor read %q, %v; want bye and the end", b, err)
	}
}
