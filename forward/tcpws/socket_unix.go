//go:build unix

package tcpws

import (
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"adit/internal/nonblock"
	"adit/internal/readable"
)

// init makes s use c.
func (s *socket) init(c net.Conn) {
	s.Conn = c
	if s.out.Init(c) {
		s.raw, _ = readable.Of(c)
		s.in.try = s.readOnce
	}
}

// read waits for bytes, and reads them into what the lender lends then. Nothing
// was read if it fails.
func (s *socket) read(to lender) (int, error) {
	if s.raw == nil {
		return s.readConn(to)
	}
	s.in.to, s.in.n, s.in.err = to, 0, nil
	if err := s.raw.Read(s.in.try); err != nil {
		return 0, err
	}
	if s.in.err != nil {
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: os.NewSyscallError("read", s.in.err)}
	} else if s.in.n == 0 {
		return 0, io.EOF
	}
	return s.in.n, nil
}

// readOnce is for RawConn.Read: false waits.
func (s *socket) readOnce(fd uintptr) bool {
	s.in.n, s.in.err = nonblock.Read(int(fd), s.in.to.lend())
	if s.in.err == nil && s.in.n > 0 {
		return true
	}
	s.in.to.giveBack()
	return s.in.err != unix.EAGAIN
}
