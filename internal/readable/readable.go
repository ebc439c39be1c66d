// Package readable waits until a socket has something to read, for whoever
// must not hold a buffer while waiting: an idle conn then costs its goroutine's
// stack and nothing else.
//
//	rc, ok := readable.Of(conn)
//	if ok {
//		if err := readable.Wait(rc); err != nil {
//			return err
//		}
//	}
//	buf := pool.Get().(*[]byte) // only now
//	n, err := conn.Read(*buf)
//
// Where long silence is expected even the goroutine can be spared: see
// Waiter.Park.
package readable

import (
	"net"
	"syscall"
)

// Of returns the raw conn of a *net.TCPConn, *net.UDPConn or *net.UnixConn, or of a conn with
// a method Socket, which returns the *net.TCPConn that it reads from and writes
// to without doing anything to the bytes. It reports false for any other conn, such as a *tls.Conn, whose bytes may wait above the
// socket, and on systems where Wait is not supported.
func Of(c net.Conn) (syscall.RawConn, bool) {
	if !supported {
		return nil, false
	}
	var rc syscall.RawConn
	var err error
	switch c := c.(type) {
	case interface{ Socket() *net.TCPConn }:
		rc, err = c.Socket().SyscallConn()
	case *net.TCPConn:
		rc, err = c.SyscallConn()
	case *net.UDPConn:
		rc, err = c.SyscallConn()
	case *net.UnixConn:
		rc, err = c.SyscallConn()
	default:
		return nil, false
	}
	return rc, err == nil
}

// Wait blocks until a read on the socket would not block: there are data, the
// end, or an error, which the read then returns. Wait's own error wraps
// os.ErrDeadlineExceeded if the read deadline passed, or net.ErrClosed if the
// conn was closed. While it waits, other reads on the conn wait too. In rare
// cases it returns early, so the read may still block.
//
// Where the system has no way to do it, the error wraps
// errors.ErrUnsupported; see Of.
//
// Wait allocates a little; use a Waiter to wait many times.
func Wait(rc syscall.RawConn) error {
	var w Waiter
	w.Init(rc)
	return w.Wait()
}
