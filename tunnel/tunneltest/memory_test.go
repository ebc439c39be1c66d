package tunneltest

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"adit/tunnel"

	"golang.org/x/net/nettest"
)

func TestMemoryConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		m, l := NewMemory("mem")
		accepted := make(chan net.Conn, 1)
		go func() {
			c, _ := l.Accept()
			c.(tunnel.Incoming).Accept()
			accepted <- c
		}()
		c1, err = m.OpenStream(context.Background(), tunnel.StreamInfo{})
		return c1, <-accepted, func() { m.Close() }, err
	})
}

func TestMemoryRefusal(t *testing.T) {
	t.Parallel()
	m, l := NewMemory("mem")
	defer m.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.(tunnel.Incoming).Refuse(tunnel.RefuseForbidden, "no")
		}
	}()
	var refused *tunnel.RefusedError
	if _, err := m.OpenStream(t.Context(), tunnel.StreamInfo{}); !errors.As(err, &refused) || refused.Code != tunnel.RefuseForbidden {
		t.Errorf("OpenStream: %v, want a refusal with code forbidden", err)
	}
	c, err := m.OpenEarly(tunnel.StreamInfo{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &refused) {
		t.Errorf("Read of a stream refused after OpenEarly: %v, want a refusal", err)
	}
	if _, err := c.Write([]byte("x")); !errors.As(err, &refused) {
		t.Errorf("Write to a refused stream: %v, want a refusal", err)
	}
	c.Close()
}

func TestMemoryResetAndClose(t *testing.T) {
	t.Parallel()
	m, l := NewMemory("mem")
	open := func(service string) (near, far net.Conn) {
		near, err := m.OpenEarly(tunnel.StreamInfo{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		if far, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		if got := far.(tunnel.Incoming).Info().Service; got != service {
			t.Errorf("service %q, want %q", got, service)
		}
		return near, far
	}
	near, far := open("one")
	near.(tunnel.Resetter).Reset(tunnel.ResetCancelled, "left")
	var reset *tunnel.ResetError
	if _, err := far.Read(make([]byte, 1)); !errors.As(err, &reset) || reset.Code != tunnel.ResetCancelled {
		t.Errorf("Read after Reset: %v, want a reset with code cancelled", err)
	}

	near, far = open("two")
	m.Close()
	for name, c := range map[string]net.Conn{"opener": near, "agent": far} {
		if _, err := io.ReadAll(c); err == nil {
			t.Errorf("%s: Read after the tunnel closed ends without error", name)
		}
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, tunnel.ErrClosed) {
		t.Errorf("Write after Close: %v, want ErrClosed", err)
	}
	if _, err := m.OpenStream(t.Context(), tunnel.StreamInfo{}); !errors.Is(err, tunnel.ErrClosed) {
		t.Errorf("OpenStream after Close: %v, want ErrClosed", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v, want net.ErrClosed", err)
	}
}
