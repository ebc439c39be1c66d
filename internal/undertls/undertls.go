// Package undertls is what crypto/tls reads from and writes to, for whoever has
// to wait for bytes under TLS and must hold neither a buffer nor a goroutine
// meanwhile:
//
//	conn := tls.Client(undertls.New(tcp, nil), config)
//	...
//	if s := undertls.Of(conn); s != nil {
//		s.SetTry(true)
//		n, err := conn.Read(buf)
//		s.SetTry(false)
//		if err == undertls.ErrNothing { // conn holds nothing either
//			s.Park(goOn)
//		}
//	}
//
// A tls.Conn reads from its socket only if it has no bytes for its reader, and
// it goes on after an error that is temporary.
package undertls

import (
	"crypto/tls"
	"net"

	"adit/internal/readable"
	"adit/internal/replay"
)

// ErrNothing is what a read returns while SetTry is on, if it would have to wait
// for the far side. It is a net.Error that is temporary.
var ErrNothing error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing to read at the moment" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true } // crypto/tls asks

// A Socket is a conn below a tls.Conn. SetTry and Park are for whoever reads from
// the tls.Conn, and for nobody else.
type Socket struct {
	*replay.Conn
	waiter readable.Waiter
	parks  bool // waiter can be used
	try    bool
}

// New returns c for a tls.Conn. Its first bytes are head, which it keeps.
func New(c net.Conn, head []byte) *Socket {
	s := &Socket{Conn: replay.New(c, head)}
	if rc, ok := readable.Of(c); ok {
		s.waiter.Init(rc)
		s.parks = true
	}
	return s
}

// Of returns the Socket below c. It is nil if c is no *tls.Conn over one, or if
// it cannot be parked.
func Of(c net.Conn) *Socket {
	tc, ok := c.(*tls.Conn)
	if !ok {
		return nil
	}
	s, ok := tc.NetConn().(*Socket)
	if !ok || !s.parks {
		return nil
	}
	return s
}

// SetTry says whether Read is to return ErrNothing instead of waiting.
func (s *Socket) SetTry(on bool) { s.try = on }

// Read is the conn's.
func (s *Socket) Read(p []byte) (int, error) {
	if !s.try || len(s.Head()) > 0 {
		return s.Conn.Read(p)
	}
	n, now, err := s.waiter.TryRead(p)
	if !now {
		return 0, ErrNothing
	}
	return n, err
}

// Park is like readable.Waiter's.
func (s *Socket) Park(f func()) bool { return s.waiter.Park(f) }

// Unpark is like readable.Waiter's.
func (s *Socket) Unpark() { s.waiter.Unpark() }
