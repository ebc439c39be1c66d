package ingress

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// oobSize is more than what the system tells of a datagram.
const oobSize = 128

// localAddrs finds which address of the machine a datagram was sent to, and has
// the answer leave from there (ip(7), IP_PKTINFO; RFC 3542, section 6).
type localAddrs struct{ v6 bool }

// ask has the system tell.
func (l *localAddrs) ask(socket *net.UDPConn) {
	rc, err := socket.SyscallConn()
	if err != nil {
		return
	}
	rc.Control(func(fd uintptr) {
		domain, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil {
			return
		}
		if l.v6 = domain == unix.AF_INET6; l.v6 {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1) // also of IPv4 on a socket of IPv6
	})
}

// of returns the address that a datagram was sent to, or that of the machine
// which stands for it if that was a broadcast. oob is what the system tells of it.
func (l *localAddrs) of(oob []byte) (to netip.Addr) {
	for len(oob) > 0 {
		head, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		switch {
		case err != nil:
			return to
		case head.Level == unix.IPPROTO_IP && head.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(data[4:8])) // which is never that of a broadcast
		case head.Level == unix.IPPROTO_IPV6 && head.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			// Of IPv4 it may be a broadcast; IP_PKTINFO tells then too.
			if a := netip.AddrFrom16([16]byte(data[:16])); !a.Is4In6() && !a.IsMulticast() {
				to = a
			}
		}
		oob = rest
	}
	return to
}

// control returns what has the system send from an address.
func (l *localAddrs) control(from netip.Addr) []byte {
	if l.v6 {
		return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: from.As16()})
	}
	return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: from.As4()})
}
