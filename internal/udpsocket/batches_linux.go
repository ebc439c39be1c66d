package udpsocket

import (
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"adit/internal/nonblock"
)

// batches are the ways of Linux to move many datagrams with one call.
type batches struct {
	rc        syscall.RawConn
	v6        bool // the socket's family is AF_INET6, which takes addresses of IPv4 too
	connected bool

	// segment is the size below which datagrams of the same size are given to
	// the system as one, which it cuts again; 0 if it cannot.
	segment atomic.Int32

	zone atomic.Pointer[zone] // that was looked up last, or nil

	post func(fd int, m []nonblock.Message) (int, error) // nonblock.SendMessages, but in tests

	// Of the receive that runs.
	get func(fd uintptr) bool // b.take, allocated once
	in  *inbox
	n   int   // messages in it
	err error // instead
}

// newBatches sets the socket up, or returns nil if that cannot be.
func newBatches(c *net.UDPConn, connected, local bool) *batches {
	rc, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	b := &batches{rc: rc, connected: connected, post: nonblock.SendMessages}
	b.get = b.take
	var cause error
	err = rc.Control(func(fd uintptr) {
		var domain int
		if domain, cause = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); cause != nil {
			return
		}
		b.v6 = domain == unix.AF_INET6
		if local {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1) // also of IPv4 on a socket of IPv6
			if b.v6 {
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
			}
		}
		unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) // Linux 5.0; before, each comes alone
		if _, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT); err == nil {
			b.segment.Store(MaxLen) // Linux 4.18; before, the system would send them as one
		}
	})
	if err != nil || cause != nil {
		return nil
	}
	return b
}

// A sockaddr is memory for an address of either family.
type sockaddr = unix.RawSockaddrInet6

// putSockaddr writes an address in the form of the socket's family, and returns
// its length; 0 if it is of the other.
func (b *batches) putSockaddr(to *sockaddr, a netip.AddrPort) uint32 {
	if !b.v6 {
		if !a.Addr().Is4() && !a.Addr().Is4In6() {
			return 0
		}
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(to))
		*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.Addr().Unmap().As4()}
		putPort(&v4.Port, a.Port())
		return unix.SizeofSockaddrInet4
	}
	*to = sockaddr{Family: unix.AF_INET6, Addr: a.Addr().As16()}
	putPort(&to.Port, a.Port())
	to.Scope_id = b.zoneID(a.Addr().Zone())
	return unix.SizeofSockaddrInet6
}

// addrPort reads what the system has written.
func (b *batches) addrPort(a *sockaddr) netip.AddrPort {
	switch a.Family {
	case unix.AF_INET:
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), port(&v4.Port))
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).WithZone(b.zoneName(a.Scope_id)), port(&a.Port))
	}
	return netip.AddrPort{}
}

// Ports are in the network's order, whatever the machine's is.
func putPort(to *uint16, p uint16) {
	b := (*[2]byte)(unsafe.Pointer(to))
	b[0], b[1] = byte(p>>8), byte(p)
}

func port(from *uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(from))
	return uint16(b[0])<<8 | uint16(b[1])
}

// A zone is a network interface, which the system knows by its number and others
// by its name.
type zone struct {
	id     uint32
	name   string
	looked time.Time
}

// zoneFor is how long a zone is good for.
const zoneFor = time.Minute

// zoneName returns the name of an interface, or its number if it has none.
func (b *batches) zoneName(id uint32) string {
	if id == 0 {
		return ""
	}
	if z := b.zone.Load(); z != nil && z.id == id && time.Since(z.looked) < zoneFor {
		return z.name
	}
	name := strconv.FormatUint(uint64(id), 10)
	if ifi, err := net.InterfaceByIndex(int(id)); err == nil {
		name = ifi.Name
	}
	b.zone.Store(&zone{id, name, time.Now()})
	return name
}

// zoneID is the reverse of zoneName, and 0 for what it does not return.
func (b *batches) zoneID(name string) uint32 {
	if name == "" {
		return 0
	}
	if z := b.zone.Load(); z != nil && z.name == name && time.Since(z.looked) < zoneFor {
		return z.id
	}
	id, err := strconv.ParseUint(name, 10, 32)
	if ifi, ierr := net.InterfaceByName(name); ierr == nil {
		id, err = uint64(ifi.Index), nil
	}
	if err != nil {
		return 0
	}
	b.zone.Store(&zone{uint32(id), name, time.Now()})
	return uint32(id)
}
