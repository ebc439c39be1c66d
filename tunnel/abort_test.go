package tunnel_test

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAbort(t *testing.T) {
	t.Parallel()
	t.Run("stream", func(t *testing.T) {
		t.Parallel()
		tun, ln := tunneltest.NewMemory("mem")
		defer tun.Close()
		near, err := tun.OpenEarly(tunnel.StreamInfo{})
		if err != nil {
			t.Fatal(err)
		}
		far, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := tunnel.Abort(near, tunnel.ResetTimeout, "slow"); err != nil {
			t.Errorf("Abort: %v", err)
		}
		_, err = far.Read(make([]byte, 1))
		if r, ok := errors.AsType[*tunnel.ResetError](err); !ok || *r != (tunnel.ResetError{Code: tunnel.ResetTimeout, Reason: "slow"}) {
			t.Errorf("far side: got %v, want a reset with code %v and its reason", err, tunnel.ResetTimeout)
		}
	})
	t.Run("TCP", func(t *testing.T) {
		t.Parallel()
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		near, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		if err := tunnel.Abort(near, tunnel.ResetInternal, ""); err != nil {
			t.Errorf("Abort: %v", err)
		}
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("far side: got %v, want %v", err, syscall.ECONNRESET)
		}
	})
	t.Run("other", func(t *testing.T) {
		t.Parallel()
		near, far := net.Pipe()
		if err := tunnel.Abort(near, tunnel.ResetInternal, ""); err != nil {
			t.Errorf("Abort: %v", err)
		}
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("far side: got %v, want %v", err, io.EOF)
		}
	})
}
