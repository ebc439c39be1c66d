package tcpws

import (
	"net"
	"syscall"

	"adit/internal/trywrite"
)

// A socket is a conn as a link uses it. If it is a plain socket, its bytes are
// moved without the conn, and nobody holds a buffer while it has none. One
// goroutine at a time reads, and one writes.
type socket struct {
	net.Conn
	raw syscall.RawConn // nil unless plain

	in struct { // of the call of read that runs
		to  lender
		n   int
		err error
		try func(fd uintptr) bool // readOnce, allocated once
	}
	out trywrite.Writer // if plain
}

// A lender has a buffer for bytes that are there.
type lender interface {
	lend() []byte
	giveBack() // of what was lent last; nothing was read
}

// Write implements net.Conn.
func (s *socket) Write(b []byte) (int, error) {
	if s.raw == nil {
		return s.Conn.Write(b)
	}
	return s.out.WriteAll(b)
}

// readConn reads from the conn itself.
func (s *socket) readConn(to lender) (int, error) {
	n, err := s.Conn.Read(to.lend())
	if n > 0 {
		return n, nil // an error comes again
	}
	to.giveBack()
	return 0, err
}
