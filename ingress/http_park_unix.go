//go:build unix

package ingress

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"adit/internal/readable"
)

// A parkedReader reads the first bytes of a request, into memory that it takes
// when they are there. On sockets this costs no system call more than a plain
// Read.
type parkedReader struct {
	conn net.Conn
	rc   syscall.RawConn // nil if conn is no socket
	try  func(fd uintptr) bool
	h    *HTTP // of the read in progress
	ex   *exchange
	err  error
	one  [1]byte
}

func (p *parkedReader) init(conn net.Conn) {
	p.conn = conn
	if rc, ok := readable.Of(conn); ok {
		p.rc, p.try = rc, p.tryRead
	}
}

func (p *parkedReader) read(h *HTTP) (*exchange, error) {
	if p.rc == nil {
		return readByte(p.conn, &p.one, h)
	}
	p.h, p.ex, p.err = h, nil, nil
	if err := p.rc.Read(p.try); err != nil {
		p.err = err
	}
	ex := p.ex
	p.ex = nil
	return ex, p.err
}

// tryRead is called with the poller armed: first at once, and then when the
// poller saw something.
func (p *parkedReader) tryRead(fd uintptr) bool {
	ex := p.h.requests.Get().(*exchange)
	for {
		n, err := unix.Read(int(fd), ex.in)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			p.h.requests.Put(ex)
			return false
		case err != nil:
			p.err = os.NewSyscallError("read", err)
		case n == 0:
			p.err = io.EOF
		default:
			ex.w = n
			p.ex = ex
			return true
		}
		p.h.requests.Put(ex)
		return true
	}
}
