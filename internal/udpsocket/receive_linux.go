package udpsocket

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"adit/internal/nonblock"
)

const (
	// maxReceived is how many datagrams, or runs of them, are received with
	// one call. There is room for the largest of each, but memory of the
	// machine only behind what has been there.
	maxReceived = 16

	// controlSize is more than what the system tells of a datagram.
	controlSize = 128
)

// An inbox is what datagrams are received into. It is borrowed for as long as
// they are looked at.
type inbox struct {
	messages [maxReceived]nonblock.Message
	vectors  [maxReceived]unix.Iovec
	names    [maxReceived]sockaddr
	control  [maxReceived][controlSize / 8]uint64 // aligned as cmsg(3) wants it
	memory   [maxReceived][MaxLen + 1]byte
}

var inboxes = sync.Pool{New: func() any {
	in := new(inbox)
	for i := range in.messages {
		in.vectors[i].Base = &in.memory[i][0]
		in.vectors[i].SetLen(len(in.memory[i]))
		m := &in.messages[i]
		m.Name = (*byte)(unsafe.Pointer(&in.names[i]))
		m.Iov = &in.vectors[i]
		m.SetIovlen(1)
		m.Control = (*byte)(unsafe.Pointer(&in.control[i]))
		in.reset(i)
	}
	return in
}}

// reset makes a message ready to be received into.
func (in *inbox) reset(i int) {
	m := &in.messages[i]
	m.Namelen = unix.SizeofSockaddrInet6
	m.SetControllen(controlSize)
}

// take is for RawConn.Read: false waits.
func (b *batches) take(fd uintptr) bool {
	in := inboxes.Get().(*inbox)
	n, err := nonblock.ReceiveMessages(int(fd), in.messages[:])
	if err != nil {
		inboxes.Put(in)
		b.err = err
		return err != unix.EAGAIN
	}
	b.in, b.n, b.err = in, n, nil
	return true
}

// receive is Socket.Receive.
func (b *batches) receive(take func(Run)) error {
	if err := b.rc.Read(b.get); err != nil {
		return err
	}
	if b.err != nil {
		return &net.OpError{Op: "read", Net: "udp", Err: os.NewSyscallError("recvmmsg", b.err)}
	}
	in := b.in
	b.in = nil
	for i := range in.messages[:b.n] {
		if r, ok := b.run(in, i); ok {
			take(r)
		}
		in.reset(i)
	}
	inboxes.Put(in)
	return nil
}

// run returns what a message is. It reports false if the system has not told all
// of it: it may be several datagrams, and nobody knows where one ends.
func (b *batches) run(in *inbox, i int) (r Run, ok bool) {
	m := &in.messages[i]
	if m.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return r, false
	}
	r.B = in.memory[i][:m.N]
	if !b.connected {
		r.From = b.addrPort(&in.names[i])
	}
	if m.Controllen > 0 {
		control := unsafe.Slice((*byte)(unsafe.Pointer(&in.control[i])), controlSize)
		ok = r.tell(control[:min(int(m.Controllen), controlSize)])
		return r, ok
	}
	return r, true
}

// tell notes what the system tells of r, and reports whether that is whole.
func (r *Run) tell(control []byte) bool {
	for len(control) > 0 {
		head, data, rest, err := unix.ParseOneSocketControlMessage(control)
		switch {
		case err != nil:
			return false
		case head.Level == unix.IPPROTO_IP && head.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			r.To = netip.AddrFrom4([4]byte(data[4:8])) // which is never that of a broadcast
		case head.Level == unix.IPPROTO_IPV6 && head.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			// Of IPv4 it may be a broadcast; IP_PKTINFO tells then too.
			switch a := netip.AddrFrom16([16]byte(data[:16])); {
			case a.IsLinkLocalUnicast():
				r.To = a.WithZone(strconv.FormatUint(uint64(binary.NativeEndian.Uint32(data[16:])), 10))
			case !a.Is4In6() && !a.IsMulticast():
				r.To = a
			}
		case head.Level == unix.IPPROTO_UDP && head.Type == unix.UDP_GRO && len(data) >= 4:
			r.Size = int(*(*int32)(unsafe.Pointer(unsafe.SliceData(data))))
		}
		control = rest
	}
	return r.Size >= 0
}
