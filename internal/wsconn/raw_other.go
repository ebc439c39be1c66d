//go:build !unix

package wsconn

import (
	"errors"
	"net"

	"adit/internal/pipe"
)

// A rawConn does to a socket what net.Conn has no call for. On this system
// there is none.
type rawConn struct{}

func newRawConn(c net.Conn) *rawConn { return nil }

func (r *rawConn) waitRead() error { return errors.ErrUnsupported }

func (r *rawConn) park(func()) bool { return false }

func (r *rawConn) unpark() {}

func (r *rawConn) Read(b []byte) (int, error) { return 0, errors.ErrUnsupported }

func (r *rawConn) canSplice() bool { return false }

func (r *rawConn) splice(*pipe.Pipe, int) (int, error) { return 0, errors.ErrUnsupported }

func (r *rawConn) tryWrite(b []byte) (int, error) { return 0, errors.ErrUnsupported }

func (r *rawConn) writeAll(b []byte) (int, error) { return 0, errors.ErrUnsupported }

// writable reports whether c is a socket that takes some bytes without
// blocking, which cannot be told on this system.
func writable(c net.Conn) bool { return false }
