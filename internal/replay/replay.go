// Package replay gives a conn the bytes back that were read from it to find out
// who should have it.
//
//	first, err := br.Peek(1)
//	if isTLS(first) {
//		conn = tls.Server(replay.Buffered(conn, br), config)
//	}
//
// When these bytes are read again, the conn below has nothing more to gain from
// its wrapper: see Bare, and package relay, which does without it by itself.
package replay

import (
	"bufio"
	"bytes"
	"net"
)

// A Conn is a conn of which the first bytes were read before. Everything but
// Read goes to the conn below.
type Conn struct {
	net.Conn
	head []byte // to be read first
}

// New returns a conn whose first bytes are head, which it keeps, and on which
// those of c follow.
func New(c net.Conn, head []byte) *Conn { return &Conn{c, head} }

// Buffered returns a conn whose first bytes are those that br, a reader of c,
// has read and nobody has taken. Without any it is c.
func Buffered(c net.Conn, br *bufio.Reader) net.Conn {
	n := br.Buffered()
	if n == 0 {
		return c
	}
	head, _ := br.Peek(n)
	return New(c, bytes.Clone(head))
}

// Bare returns the conn below if c is a Conn whose first bytes have been read
// again, and otherwise c.
func Bare(c net.Conn) net.Conn {
	if rc, ok := c.(*Conn); ok && len(rc.head) == 0 {
		return rc.Conn
	}
	return c
}

func (c *Conn) Read(p []byte) (int, error) {
	if len(c.head) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.head)
	if c.head = c.head[n:]; len(c.head) == 0 {
		c.head = nil // lets go of the memory
	}
	return n, nil
}

// Head returns the bytes that are still to be read before those of the conn
// below. The caller must not change them.
func (c *Conn) Head() []byte { return c.head }

// NetConn returns the conn below.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// CloseWrite ends the writing side if the conn below can, and otherwise the
// conn.
func (c *Conn) CloseWrite() error {
	if hc, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return c.Conn.Close()
}
