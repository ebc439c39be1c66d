package udpsocket

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// forbid has a socket told that a router forbids what it has sent (RFC 1812,
// section 5.2.7.1: code 13), as a firewall does.
func forbid(t *testing.T, c *net.UDPConn) {
	t.Helper()
	raw, err := net.ListenPacket("ip4:icmp", "127.0.0.1")
	if err != nil {
		t.Skip("this needs to send ICMP: ", err)
	}
	defer raw.Close()
	from, to := c.LocalAddr().(*net.UDPAddr).AddrPort(), c.RemoteAddr().(*net.UDPAddr).AddrPort()
	b := make([]byte, 8+20+8)
	b[0], b[1] = 3, 13
	sent := b[8:]
	sent[0], sent[3], sent[8], sent[9] = 0x45, 28+1, 64, unix.IPPROTO_UDP
	copy(sent[12:], from.Addr().AsSlice())
	copy(sent[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(sent[20:], from.Port())
	binary.BigEndian.PutUint16(sent[22:], to.Port())
	binary.BigEndian.PutUint16(sent[24:], 8+1)
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
	if _, err := raw.WriteTo(b, &net.IPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Skip("this needs to send ICMP: ", err)
	}
}

// What a router says of one datagram does not cost the next, and Receive tells.
func TestForbidden(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			far := listen(t, "udp", "127.0.0.1:0")
			udp := dial(t, far.LocalAddr())
			c := New(udp, way.opts)
			forbid(t, udp)
			if done, err := c.Send(Envelope{}, [][]byte{filled(1, 1)}); err != nil || done.Sent != 1 {
				t.Errorf("Send = %+v, %v; want it sent, though one before was refused", done, err)
			}
			forbid(t, udp)
			if err := c.Receive(func(Run) { t.Error("something was received") }); !errors.Is(err, syscall.EHOSTUNREACH) || !Passing(err) {
				t.Errorf("Receive: got %v, want a passing EHOSTUNREACH", err)
			}
		})
	}
}

// Datagrams of one visitor that go nowhere do not have those of others sent one
// by one.
func TestUnreachableVisitorSlowsNobody(t *testing.T) {
	t.Parallel()
	s := New(listen(t, "udp6", "[::]:0"), Options{Local: true})
	if s.many == nil || s.many.segment.Load() == 0 {
		t.Skip("this kernel moves them one by one")
	}
	gone := Envelope{To: netip.MustParseAddrPort("[::1]:9"), From: netip.MustParseAddr("fe80::1")} // which is of another interface
	if done, err := s.Send(gone, [][]byte{{1}, {2}, {3}}); err != nil || done != (Sent{Lost: 3}) {
		t.Fatalf("Send from an address of elsewhere = %+v, %v; want all lost", done, err)
	}
	if got := s.many.segment.Load(); got != MaxLen {
		t.Errorf("datagrams below %d bytes go together, want %d", got, MaxLen)
	}
}
