package quicconn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"
	"golang.org/x/net/nettest"

	"adit/internal/testca"
)

func TestMain(m *testing.M) {
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	goleak.VerifyTestMain(m)
}

const hostname = "tunnel.example.com"

// listen returns a listener and what agents need for it.
func listen(t testing.TB, limits Limits) (*Listener, *tls.Config) {
	ca := testca.New(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	l, err := Listen("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server(hostname))}}, limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.End() })
	return l, &tls.Config{RootCAs: pool, ServerName: hostname}
}

// pair returns both ends of a conn. A stream shows when its first byte comes.
func pair(t testing.TB, l *Listener, config *tls.Config) (near, far net.Conn) {
	near, err := Dial(t.Context(), l.Addr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if _, err := near.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	far, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	var b [1]byte
	if _, err := io.ReadFull(far, b[:]); err != nil {
		t.Fatal(err)
	}
	return near, far
}

func TestConn(t *testing.T) {
	t.Parallel()
	l, config := listen(t, Limits{})
	nettest.TestConn(t, func() (near, far net.Conn, stop func(), err error) {
		near, far = pair(t, l, config)
		return near, far, func() { near.Close(); far.Close() }, nil
	})
}

// What is written before Close arrives, and then the end.
func TestClose(t *testing.T) {
	t.Parallel()
	l, config := listen(t, Limits{})
	near, far := pair(t, l, config)
	var wg sync.WaitGroup
	wg.Go(func() {
		near.Write([]byte(strings.Repeat("x", 200_000)))
		near.Close()
	})
	b, err := io.ReadAll(far)
	if err != nil || len(b) != 200_000 {
		t.Errorf("read %d bytes, %v; want all", len(b), err)
	}
	far.Close()
	wg.Wait()
}

func TestDialRefuses(t *testing.T) {
	t.Parallel()
	l, config := listen(t, Limits{})
	other := config.Clone()
	other.RootCAs = x509.NewCertPool()
	if c, err := Dial(t.Context(), l.Addr().String(), other); err == nil {
		c.Close()
		t.Error("Dial of a server that is not trusted succeeded")
	} else if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
		t.Logf("Dial = %v", err) // quic-go has its text alone
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if c, err := Dial(ctx, silent.LocalAddr().String(), config); !errors.Is(err, context.DeadlineExceeded) {
		if err == nil {
			c.Close()
		}
		t.Errorf("Dial of nobody = %v, want the deadline", err)
	}
}

// One that is too many is turned away, and the next one gets in when there is room.
func TestLimits(t *testing.T) {
	t.Parallel()
	l, config := listen(t, Limits{Conns: 1})
	near, far := pair(t, l, config)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if c, err := Dial(ctx, l.Addr().String(), config); err == nil {
		c.Close()
		t.Fatal("a second connection was taken, want at most one")
	}
	near.Close()
	far.Close()
	for ctx.Err() == nil { // whoever is turned away may come again
		if c, err := Dial(ctx, l.Addr().String(), config); err == nil {
			c.Close()
			return
		}
	}
	t.Error("the seat of a connection that has ended is not free")
}

// Whoever has not shown that its address is right gets no more than it sent.
func TestNoAmplifier(t *testing.T) {
	t.Parallel()
	l, _ := listen(t, Limits{})
	c, err := net.Dial("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The beginning of a handshake, taken off one that goes nowhere.
	trap, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer trap.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if qc, err := quic.DialAddr(ctx, trap.LocalAddr().String(), &tls.Config{ServerName: hostname, NextProtos: []string{Protocol}}, nil); err == nil {
			qc.CloseWithError(0, "")
		}
	})
	first := make([]byte, 2000)
	trap.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, _, err := trap.ReadFrom(first)
	cancel()
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	for range 3 {
		c.Write(first[:n])
		sent += n
	}
	got := 0
	buf := make([]byte, 2000)
	c.SetReadDeadline(time.Now().Add(20 * time.Second)) // for the first, then for more
	for {
		n, err := c.Read(buf)
		if err != nil {
			break
		}
		got += n
		c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	}
	if got == 0 || got > sent {
		t.Errorf("%d bytes came back for %d, want some and no more", got, sent)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns != 0 {
		t.Errorf("%d connections are kept for an address that is not known to be right", l.conns)
	}
}
