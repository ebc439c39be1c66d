// Package udpsocket receives and sends many datagrams at a time, where the
// system has a way: on Linux with recvmmsg(2), sendmmsg(2), UDP_GRO and
// UDP_SEGMENT (udp(7)), as far as the kernel knows them. A datagram that comes
// alone is handed on at once, and nothing that waits holds a buffer.
//
//	s := udpsocket.New(conn, udpsocket.Options{})
//	for {
//		err := s.Receive(func(r udpsocket.Run) {
//			for b := range r.All() {
//				…
//			}
//		})
//		…
//	}
package udpsocket

import (
	"errors"
	"iter"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"adit/internal/readable"
)

// MaxLen is the most bytes that a datagram has.
const MaxLen = 1<<16 - 1

// Options configures a Socket.
type Options struct {
	// Local has the system tell which address of the machine a datagram was
	// sent to, for a socket that is on all of them (ip(7), IP_PKTINFO; RFC
	// 3542, section 6). Elsewhere than on Linux it does nothing: answers leave
	// from the address that the system picks.
	Local bool

	// Plain moves each datagram with a call of its own, as on a system that has
	// no other way.
	Plain bool
}

// A Run is one datagram, or some of the same size but for the last one, which
// may be smaller, that came together from one sender.
type Run struct {
	From netip.AddrPort // not valid if the socket is connected
	To   netip.Addr     // of the machine, in place of a broadcast too; not valid unless the system was asked and has told. A link-local one has the interface's number as its zone
	B    []byte
	Size int // of each but the last; 0 means that B is one datagram
}

// All yields the datagrams.
func (r Run) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		b := r.B
		for r.Size > 0 && len(b) > r.Size {
			if !yield(b[:r.Size:r.Size]) {
				return
			}
			b = b[r.Size:]
		}
		yield(b)
	}
}

// Len returns the number of datagrams.
func (r Run) Len() int {
	if r.Size == 0 || len(r.B) <= r.Size {
		return 1
	}
	return (len(r.B) + r.Size - 1) / r.Size
}

// An Envelope says where datagrams go.
type Envelope struct {
	To     netip.AddrPort // not valid if the socket is connected
	From   netip.Addr     // of the machine, as Run.To said it; not valid lets the system pick
	Prefix []byte         // before each datagram
}

// Sent is what became of datagrams.
type Sent struct {
	Sent int // the system has taken them
	Lost int // the system refuses them, each for itself
}

// Done is how many datagrams that is.
func (s Sent) Done() int { return s.Sent + s.Lost }

// A Socket is a UDP socket, or a conn that is like a connected one. Only one
// goroutine at a time may call Receive; Send and TrySend may be called by many.
// Whoever made the conn closes it.
type Socket struct {
	conn      net.Conn
	udp       *net.UDPConn // nil if conn is another
	connected bool
	wait      func() error // until there is something to read
	many      *batches     // nil if the system has none
}

// New returns a Socket that reads and writes conn.
func New(conn net.Conn, opts Options) *Socket {
	s := &Socket{conn: conn, connected: conn.RemoteAddr() != nil}
	s.udp, _ = conn.(*net.UDPConn)
	if s.udp != nil && !opts.Plain {
		s.many = newBatches(s.udp, s.connected, opts.Local)
	}
	if s.many == nil {
		s.wait = waiter(conn)
	}
	return s
}

// Passing reports whether an error of a connected socket is what the far side or
// a router has said of a datagram that was sent before (RFC 1122, section
// 4.1.3.3). The system tells of it once, instead of what was asked for.
func Passing(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return false
	}
	switch errno {
	case syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENOPROTOOPT, syscall.EMSGSIZE:
		return true
	}
	return false
}

// Receive waits for datagrams and calls take for what has come, in its order.
// What take is given is good until it returns; take does not block. The error
// wraps net.ErrClosed if the socket was closed; see also Passing: one may receive
// on after that.
func (s *Socket) Receive(take func(Run)) error {
	if s.many != nil {
		return s.many.receive(take)
	}
	if err := s.wait(); err != nil {
		return err
	}
	buf := buffers.Get().(*[MaxLen]byte)
	defer buffers.Put(buf)
	var r Run
	var n int
	var err error
	if s.connected {
		n, err = s.conn.Read(buf[:])
	} else {
		n, r.From, err = s.udp.ReadFromUDPAddrPort(buf[:])
	}
	if err != nil {
		return err
	}
	r.B = buf[:n]
	take(r)
	return nil
}

var buffers = sync.Pool{New: func() any { return new([MaxLen]byte) }}

// waiter returns what waits until c has something to read, where the system has
// a way for that.
func waiter(c net.Conn) func() error {
	rc, ok := readable.Of(c)
	if !ok {
		return func() error { return nil }
	}
	w := new(readable.Waiter)
	w.Init(rc)
	return w.Wait
}

// Send sends datagrams in their order, and waits while the system has no room.
// Those that the system refuses are lost; the next one behind one that the far
// side or a router has refused, of which the system tells then, is not. The
// error wraps net.ErrClosed: the rest were not sent.
func (s *Socket) Send(e Envelope, datagrams [][]byte) (Sent, error) {
	if s.many != nil {
		return s.many.send(e, datagrams, true)
	}
	var done Sent
	for _, b := range datagrams {
		err := s.sendOne(e, b)
		if s.connected && Passing(err) {
			err = s.sendOne(e, b)
		}
		switch {
		case err == nil:
			done.Sent++
		case errors.Is(err, net.ErrClosed):
			return done, err
		default:
			done.Lost++
		}
	}
	return done, nil
}

// CanTry reports whether TrySend does anything.
func (s *Socket) CanTry() bool { return s.many != nil }

// TrySend is Send that does not wait: it sends as many as there is room for.
func (s *Socket) TrySend(e Envelope, datagrams [][]byte) (Sent, error) {
	if s.many == nil {
		return Sent{}, nil
	}
	return s.many.send(e, datagrams, false)
}

func (s *Socket) sendOne(e Envelope, b []byte) (err error) {
	if len(e.Prefix) > 0 {
		buf := buffers.Get().(*[MaxLen]byte)
		defer buffers.Put(buf)
		if len(e.Prefix)+len(b) > len(buf) {
			return syscall.EMSGSIZE
		}
		b = buf[:copy(buf[copy(buf[:], e.Prefix):], b)+len(e.Prefix)]
	}
	if s.connected {
		_, err = s.conn.Write(b)
	} else {
		_, err = s.udp.WriteToUDPAddrPort(b, e.To)
	}
	return err
}
