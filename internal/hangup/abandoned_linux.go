package hangup

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Of linux/inet_diag.h and sock_diag(7).
const (
	sockDiagByFamily = 20
	diagRequestLen   = 56 // struct inet_diag_req_v2
	diagInode        = 68 // its place in struct inet_diag_msg
	diagMessageLen   = 72
	tcpFinWait1      = 4
	tcpFinWait2      = 5
)

// diagTimeout bounds the wait for the kernel's answer, which is there at once.
const diagTimeout = time.Second

// abandoned reports whether the far side of c is a TCP socket of this machine,
// or rather of this network namespace, that no process has any more. It has ended
// its direction.
func abandoned(c net.Conn) bool {
	la, ok1 := c.LocalAddr().(*net.TCPAddr)
	ra, ok2 := c.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return false
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(diagTimeout.Nanoseconds())
	if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout) != nil {
		return false
	}
	if unix.Sendto(fd, diagRequest(unmapped(ra), unmapped(la)), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		return false
	}
	var buf [1024]byte
	n, _, err := unix.Recvfrom(fd, buf[:], 0)
	return err == nil && isAbandoned(buf[:n])
}

func unmapped(a *net.TCPAddr) netip.AddrPort {
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// diagRequest asks for the one TCP socket that is at local and connected to
// remote.
func diagRequest(local, remote netip.AddrPort) []byte {
	b := make([]byte, unix.SizeofNlMsghdr+diagRequestLen)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[unix.SizeofNlMsghdr:]
	r[0], r[1] = unix.AF_INET6, unix.IPPROTO_TCP
	if local.Addr().Is4() {
		r[0] = unix.AF_INET
	}
	binary.NativeEndian.PutUint32(r[4:], 1<<tcpFinWait1|1<<tcpFinWait2)
	binary.BigEndian.PutUint16(r[8:], local.Port())
	binary.BigEndian.PutUint16(r[10:], remote.Port())
	copy(r[12:28], local.Addr().AsSlice())
	copy(r[28:44], remote.Addr().AsSlice())
	for i := range 8 {
		r[48+i] = 0xff // no cookie
	}
	return b
}

// isAbandoned reports whether an answer is about a socket without an inode, which
// is one that its process has closed.
func isAbandoned(b []byte) bool {
	if len(b) < unix.SizeofNlMsghdr+diagMessageLen || binary.NativeEndian.Uint16(b[4:]) != sockDiagByFamily {
		return false
	}
	m := b[unix.SizeofNlMsghdr:]
	state := m[1]
	return (state == tcpFinWait1 || state == tcpFinWait2) && binary.NativeEndian.Uint32(m[diagInode:]) == 0
}
