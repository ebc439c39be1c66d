package server_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"adit/forward"
	"adit/tunnel"
)

// Datagrams go through a forward one by one, each whole.
func TestForwardDatagrams(t *testing.T) {
	t.Parallel()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() {
		pc.Close()
		<-echoed
	})
	at := pc.LocalAddr().(*net.UDPAddr)
	f := startForwarding(t, at.String())
	s, err := f.dialSession(t, f.secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	target := tunnel.Target{Network: tunnel.UDP, Host: "127.0.0.1", Port: uint16(at.Port)}
	l, err := forward.Listen(forward.Spec{Kind: forward.Direct, Network: "udp", Local: "127.0.0.1:0", Target: target},
		forward.Options{Open: s.OpenTarget})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	for range 3 { // senders, which are kept apart
		c, err := net.Dial("udp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		for _, want := range []string{"hello", "", strings.Repeat("x", 20000)} {
			c.Write([]byte(want))
			got := make([]byte, 1<<16)
			n, err := c.Read(got)
			if err != nil || string(got[:n]) != want {
				t.Fatalf("got %d bytes, %v, want %d", n, err, len(want))
			}
		}
	}
	bad := target
	bad.Port--
	_, err = s.OpenTarget(t.Context(), bad)
	refusedWith(t, bad, err, tunnel.RefuseForbidden)
}
