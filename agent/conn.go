package agent

import (
	"io"
	"net"
	"net/netip"
	"time"

	"adit/tunnel"
)

// A Conn is a stream from a visitor, as a Listener accepts it. It outlives the
// loss of the agent's connection to the server, and is closed by whoever
// accepted it. Its methods are safe for concurrent use, and work as those of a
// *net.TCPConn; when the stream is lost or the visitor aborts it, Read and
// Write fail with an error that is not io.EOF.
type Conn struct {
	in tunnel.Incoming
	ln *Listener
}

var (
	_ net.Conn          = (*Conn)(nil)
	_ tunnel.HalfCloser = (*Conn)(nil)
	_ tunnel.Resetter   = (*Conn)(nil)
	_ io.ReaderFrom     = (*Conn)(nil)
	_ io.WriterTo       = (*Conn)(nil)
)

// RemoteAddr returns the visitor's address, a *net.TCPAddr. It is 0.0.0.0:0 if
// the server does not say: it may not know, and without Tunnel.PerVisitor a
// stream for HTTP may carry the requests of several visitors, who are then in
// X-Forwarded-For. The port is 0 if a proxy before the server has not said it.
func (c *Conn) RemoteAddr() net.Addr {
	if a := c.in.Info().Visitor; a.IsValid() {
		return net.TCPAddrFromAddrPort(a)
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
}

// LocalAddr returns the address of the server that the visitor connected to,
// and that of the listener if the server does not say.
func (c *Conn) LocalAddr() net.Addr {
	if a := c.in.Info().Local; a.IsValid() {
		return net.TCPAddrFromAddrPort(a)
	}
	return c.ln.Addr()
}

// Host returns the hostname that the visitor asked for, in lower case and
// without port: the name in a TLS ClientHello, or the HTTP Host. It is empty if
// the server does not say.
func (c *Conn) Host() string { return c.in.Info().Host }

// Read returns what the visitor sent, and io.EOF after the end of that.
func (c *Conn) Read(p []byte) (int, error) { return c.in.Read(p) }

// Write sends to the visitor. It returns when the bytes are on their way, which
// may be before they have arrived.
func (c *Conn) Write(p []byte) (int, error) { return c.in.Write(p) }

// ReadFrom is what io.Copy uses.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if rf, ok := c.in.(io.ReaderFrom); ok {
		return rf.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c.in}, r)
}

// WriteTo is what io.Copy uses.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	if wt, ok := c.in.(io.WriterTo); ok {
		return wt.WriteTo(w)
	}
	return io.Copy(w, struct{ io.Reader }{c.in})
}

// CloseWrite ends the direction to the visitor, who reads the end of it behind
// what was written. Read goes on. Where the server's protocol cannot express
// that it closes the conn.
func (c *Conn) CloseWrite() error {
	if hc, ok := c.in.(tunnel.HalfCloser); ok {
		return hc.CloseWrite()
	}
	return c.in.Close()
}

// Close ends both directions. What was written before still arrives, unless the
// stream is lost. Calls after the first return nil.
func (c *Conn) Close() error { return c.in.Close() }

// Reset ends both directions so that the visitor sees an error and no clean
// end. It implies Close.
func (c *Conn) Reset(code tunnel.ResetCode, reason string) error {
	return tunnel.Abort(c.in, code, reason)
}

// SetDeadline sets both deadlines. The zero time means none.
func (c *Conn) SetDeadline(t time.Time) error { return c.in.SetDeadline(t) }

// SetReadDeadline bounds present and later calls of Read; they then fail with
// os.ErrDeadlineExceeded.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.in.SetReadDeadline(t) }

// SetWriteDeadline bounds present and later calls of Write; they then fail with
// os.ErrDeadlineExceeded.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.in.SetWriteDeadline(t) }
