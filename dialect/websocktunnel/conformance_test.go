package websocktunnel_test

import (
	"net"
	"testing"

	"adit/dialect/websocktunnel"
	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// TestConformance runs the suite of all tunnels with the extension and without,
// on sockets and in TLS.
func TestConformance(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		secure, plain bool
	}{
		{"extended", false, false}, {"extended, TLS", true, false},
		{"plain", false, true}, {"plain, TLS", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tunneltest.Run(t, func(t *testing.T) (tunnel.Tunnel, net.Listener) {
				fs := newFakeServer(t, tt.secure, websocktunnel.Options{})
				opts := fs.options()
				opts.Plain = tt.plain
				l := listen(t, opts)
				tun := fs.next(t)
				if tt.plain {
					return tun, l // it has no way to refuse
				}
				return tun, answering{l}
			}, tunneltest.NoInfo)
		})
	}
}
