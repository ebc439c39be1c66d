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
	if raw, ok := readable.Of(c); ok {
		s.raw, s.in.try, s.out.try = raw, s.readOnce, s.writeSome
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
		return 0, s.fault("read", s.in.err)
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

// Write implements net.Conn.
func (s *socket) Write(b []byte) (int, error) {
	if s.raw == nil {
		return s.Conn.Write(b)
	}
	s.out.b, s.out.err = b, nil
	err := s.raw.Write(s.out.try)
	n := len(b) - len(s.out.b)
	s.out.b = nil
	if err == nil && s.out.err != nil {
		err = s.fault("write", s.out.err)
	}
	return n, err
}

// writeSome is for RawConn.Write: false waits.
func (s *socket) writeSome(fd uintptr) bool {
	for len(s.out.b) > 0 {
		n, err := nonblock.Write(int(fd), s.out.b)
		if err == unix.EAGAIN {
			return false
		} else if err != nil {
			s.out.err = err
			return true
		}
		s.out.b = s.out.b[n:]
	}
	return true
}

func (s *socket) fault(call string, err error) error {
	return &net.OpError{Op: call, Net: s.LocalAddr().Network(), Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: os.NewSyscallError(call, err)}
}
