package tunneltest_test

import (
	"net"
	"testing"

	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	tunneltest.Run(t, func(t *testing.T) (tunnel.Tunnel, net.Listener) {
		m, ln := tunneltest.NewMemory("mem")
		t.Cleanup(func() { ln.Close(); m.Close() })
		return m, ln
	})
}
