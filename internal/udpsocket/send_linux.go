package udpsocket

import (
	"errors"
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
	maxMessages = 16          // that are sent with one call
	maxPieces   = 128         // of memory that they are put together from
	maxSegments = 64          // datagrams of one message: UDP_MAX_SEGMENTS of older kernels
	maxPayload  = 65535 - 128 // bytes of one message of several datagrams, with room for the headers
	attempts    = 3           // more, to send a datagram instead of which the system tells of others that were refused
)

// An outbox is what datagrams are sent from. It is borrowed meanwhile.
type outbox struct {
	messages [maxMessages]nonblock.Message
	counts   [maxMessages]int // datagrams in each
	vectors  [maxPieces]unix.Iovec
	name     sockaddr
	control  [maxMessages][controlSize / 8]uint64

	try   func(fd uintptr)      // o.once, allocated once
	wait  func(fd uintptr) bool // o.all, allocated once
	post  func(fd int, m []nonblock.Message) (int, error)
	ready []nonblock.Message // what they send
	n     int                // and how many the system took
	err   error
}

var outboxes = sync.Pool{New: func() any {
	o := new(outbox)
	o.try, o.wait = o.once, o.all
	for i := range o.messages {
		o.messages[i].Control = (*byte)(unsafe.Pointer(&o.control[i]))
	}
	return o
}}

// once is for RawConn.Control.
func (o *outbox) once(fd uintptr) {
	o.n, o.err = o.post(int(fd), o.ready)
}

// all is for RawConn.Write: false waits.
func (o *outbox) all(fd uintptr) bool {
	o.once(fd)
	return o.err != unix.EAGAIN
}

// send is Socket.Send and, without wait, TrySend.
func (b *batches) send(e Envelope, datagrams [][]byte, wait bool) (done Sent, err error) {
	o := outboxes.Get().(*outbox)
	defer func() {
		clear(o.vectors[:]) // the datagrams are others'
		o.ready, o.post, o.err = nil, nil, nil
		outboxes.Put(o)
	}()
	named := uint32(0)
	if !b.connected {
		if named = b.putSockaddr(&o.name, e.To); named == 0 {
			done.Lost = len(datagrams)
			return done, nil
		}
	}
	o.post = b.post
	tries := 0
	segment := b.segment.Load()
	for done.Done() < len(datagrams) {
		rest := datagrams[done.Done():]
		o.ready = o.messages[:b.fill(o, e, named, rest, int(segment))]
		err := b.rc.Control(o.try)
		if err == nil && o.err == unix.EAGAIN {
			if !wait {
				return done, nil
			}
			err = b.rc.Write(o.wait)
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return done, err
			}
			done.Lost += len(rest)
			return done, nil
		}
		for _, n := range o.counts[:o.n] {
			done.Sent += n
			tries = 0
		}
		if o.n > 0 {
			b.lower(segment) // which has helped
		}
		switch {
		case o.err == nil:
		case b.connected && tries < again(o.err):
			tries++ // of one before
		case o.err == unix.EBADF:
			return done, &net.OpError{Op: "write", Net: "udp", Err: os.NewSyscallError("sendmmsg", net.ErrClosed)}
		case o.counts[0] > 1 && unsegmented(o.err):
			segment = int32(len(e.Prefix) + len(rest[0])) // each by itself then
			if o.err == unix.EIO {
				segment = 0
			}
		default:
			done.Lost += o.counts[0]
			tries = 0
		}
	}
	return done, nil
}

// again returns how many times more it is worth to send a datagram with which
// the system has answered so. What goes nowhere by itself is refused each time.
func again(err error) int {
	switch {
	case err == unix.ECONNREFUSED:
		return attempts
	case Passing(err):
		return 1
	}
	return 0
}

// fill puts as many of the datagrams as there is room for into messages, those of
// the same size below segment into one, which the system cuts again, and returns
// how many messages that is.
func (b *batches) fill(o *outbox, e Envelope, named uint32, datagrams [][]byte, segment int) (messages int) {
	pieces := 0
	each := 1 // pieces of a datagram
	if len(e.Prefix) > 0 {
		each = 2
	}
	for len(datagrams) > 0 && messages < maxMessages && pieces+each <= maxPieces {
		first := pieces
		size := len(e.Prefix) + len(datagrams[0])
		count, bytes := 0, 0
		for {
			n := len(e.Prefix) + len(datagrams[count])
			if each == 2 {
				o.piece(pieces, e.Prefix)
			}
			o.piece(pieces+each-1, datagrams[count])
			pieces += each
			count++
			bytes += n
			if count == len(datagrams) || count == maxSegments || pieces+each > maxPieces || n < size || size == 0 || size >= segment {
				break
			}
			if next := len(e.Prefix) + len(datagrams[count]); next == 0 || next > size || bytes+next > maxPayload {
				break
			}
		}
		datagrams = datagrams[count:]
		o.counts[messages] = count
		m := &o.messages[messages]
		m.Name, m.Namelen = nil, 0
		if named > 0 {
			m.Name, m.Namelen = (*byte)(unsafe.Pointer(&o.name)), named
		}
		m.Iov = &o.vectors[first]
		m.SetIovlen(pieces - first)
		m.SetControllen(b.fillControl(&o.control[messages], e.From, size, count))
		messages++
	}
	return messages
}

func (o *outbox) piece(i int, b []byte) {
	o.vectors[i].Base = unsafe.SliceData(b)
	o.vectors[i].SetLen(len(b))
}

// fillControl writes what the system is to know of a message, and returns how
// long that is.
func (b *batches) fillControl(to *[controlSize / 8]uint64, from netip.Addr, size, count int) int {
	c := controls{b: unsafe.Slice((*byte)(unsafe.Pointer(to)), controlSize)}
	switch {
	case !from.IsValid():
	case b.v6:
		on, _ := strconv.ParseUint(from.Zone(), 10, 32) // as it was told
		*(*unix.Inet6Pktinfo)(c.add(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)) = unix.Inet6Pktinfo{Addr: from.As16(), Ifindex: uint32(on)}
	default:
		*(*unix.Inet4Pktinfo)(c.add(unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)) = unix.Inet4Pktinfo{Spec_dst: from.As4()}
	}
	if count > 1 {
		*(*uint16)(c.add(unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)) = uint16(size)
	}
	return c.n
}

// controls are control messages (cmsg(3)).
type controls struct {
	b []byte
	n int // bytes used
}

// add appends a control message with n bytes, and returns where they are.
func (c *controls) add(level, typ int32, n int) unsafe.Pointer {
	head := (*unix.Cmsghdr)(unsafe.Pointer(&c.b[c.n]))
	head.Level, head.Type = level, typ
	head.SetLen(unix.CmsgLen(n))
	data := unsafe.Pointer(&c.b[c.n+unix.CmsgLen(0)])
	c.n += unix.CmsgSpace(n)
	return data
}

// unsegmented reports whether the system may have refused datagrams because they
// are one message: the network card cannot cut it, or they are longer than the
// path takes in one piece.
func unsegmented(err error) bool {
	return err == unix.EIO || err == unix.EINVAL || err == unix.EMSGSIZE
}

// lower has datagrams of that size and larger go by themselves from now on.
func (b *batches) lower(segment int32) {
	for {
		now := b.segment.Load()
		if now <= segment || b.segment.CompareAndSwap(now, segment) {
			return
		}
	}
}
