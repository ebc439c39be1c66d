//go:build !unix

package ingress

import "net"

// A parkedReader reads the first byte of a request, and takes memory when it is
// there.
type parkedReader struct {
	conn net.Conn
	one  [1]byte
}

func (p *parkedReader) init(conn net.Conn) { p.conn = conn }

func (p *parkedReader) read(h *HTTP) (*exchange, error) { return readByte(p.conn, &p.one, h) }
