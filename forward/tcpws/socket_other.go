//go:build !unix

package tcpws

import "net"

// init makes s use c.
func (s *socket) init(c net.Conn) { s.Conn = c }

// read waits for bytes, and reads them into what the lender lends. Nothing was
// read if it fails.
func (s *socket) read(to lender) (int, error) { return s.readConn(to) }
