package proxyheader

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// timeout bounds the wait for a header.
const timeout = 5 * time.Second

// A Listener accepts conns that begin with a header if they come from one of
// the addresses in From, and others as they are: what looks like a header there
// is for whoever reads it.
type Listener struct {
	*net.TCPListener
	From []netip.Prefix
}

// Listen returns l itself if it is not to expect headers.
func Listen(l net.Listener, from []netip.Prefix) net.Listener {
	tl, ok := l.(*net.TCPListener)
	if !ok || len(from) == 0 {
		return l
	}
	return &Listener{tl, from}
}

// Accept returns a *Conn, or a *net.TCPConn if it has no header.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	addr := plain(c.RemoteAddr().(*net.TCPAddr).AddrPort()).Addr()
	for _, p := range l.From {
		if p.Contains(addr) {
			return &Conn{TCPConn: c}, nil
		}
	}
	return c, nil
}

// Meet reads the header of a conn that a Listener accepted, if it has one. It
// waits for 5 s at most, and sets the conn's deadline for reads while it does.
// The caller closes the conn, also after an error.
func Meet(c net.Conn) error {
	pc, ok := c.(*Conn)
	if !ok {
		return nil
	}
	return pc.meet()
}

// A Conn is a conn that begins with a header, and whose addresses are those of
// the header once Meet has read it. Everything else is the socket's.
type Conn struct {
	*net.TCPConn
	once   sync.Once
	err    error
	header atomic.Pointer[Header]
}

func (c *Conn) meet() error {
	c.once.Do(func() {
		c.SetReadDeadline(time.Now().Add(timeout))
		h, err := read(c.TCPConn)
		c.SetReadDeadline(time.Time{})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.err = ErrMissing
		case err != nil:
			c.err = err
		case h.Remote.IsValid():
			c.header.Store(&h)
		}
	})
	return c.err
}

// RemoteAddr returns the visitor's address.
func (c *Conn) RemoteAddr() net.Addr {
	if h := c.header.Load(); h != nil {
		return tcpAddr(h.Remote)
	}
	return c.TCPConn.RemoteAddr()
}

// LocalAddr returns the address that the visitor connected to.
func (c *Conn) LocalAddr() net.Addr {
	if h := c.header.Load(); h != nil {
		return tcpAddr(h.Local)
	}
	return c.TCPConn.LocalAddr()
}

// NetConn returns the socket.
func (c *Conn) NetConn() net.Conn { return c.TCPConn }

// Socket returns the socket, which has all that is still to be read.
func (c *Conn) Socket() *net.TCPConn { return c.TCPConn }

var (
	_ syscall.Conn = (*Listener)(nil)
	_ syscall.Conn = (*Conn)(nil)
)
