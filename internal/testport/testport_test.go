package testport

import (
	"fmt"
	"net"
	"runtime"
	"testing"
)

func TestLeases(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("there are no leases")
	}
	var port uint16
	t.Run("held", func(t *testing.T) {
		port = Row(t, 2)
		for _, p := range []uint16{port, port + 1} {
			if leaseRow(t, int(p), 1) {
				t.Errorf("port %d has been leased twice", p)
			}
		}
		if leaseRow(t, int(port)-1, 2) {
			t.Errorf("port %d has been leased twice, in a row", port)
		}
	})
	if !leaseRow(t, int(port), 2) {
		t.Errorf("port %d is still leased after its test", port)
	}
}

func TestFree(t *testing.T) {
	t.Parallel()
	tcp, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", One(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", One(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for _, port := range []int{tcp.Addr().(*net.TCPAddr).Port, udp.LocalAddr().(*net.UDPAddr).Port} {
		if free(port) {
			t.Errorf("port %d passes for free", port)
		}
	}
}
