package native_test

import (
	"net"
	"testing"

	"adit/dialect/native"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// TestConformance runs the suite of all tunnels over each kind of carrier.
func TestConformance(t *testing.T) {
	t.Parallel()
	for _, nw := range []network{memory, tcp, secure} {
		t.Run(string(nw), func(t *testing.T) {
			t.Parallel()
			tunneltest.Run(t, func(t *testing.T) (tunnel.Tunnel, net.Listener) {
				fs := newFakeServer(t, nw, native.Options{})
				tun, s := fs.start(t, fs.dialer("secret"), native.SessionOptions{})
				return tun, s
			})
		})
	}
}
