package adit

import (
	"io"
	"net"
	"time"

	"adit/agent"
	"adit/tunnel"
)

// A Conn is a conn from a visitor, as a Listener accepts it. Its methods are safe
// for concurrent use and work as those of a *net.TCPConn. It goes on when the
// connection to the server is lost and made again within a minute; when that
// fails, or the visitor aborts it, Read and Write return an error other than
// io.EOF.
type Conn struct {
	c *agent.Conn
}

var (
	_ net.Conn      = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
)

// RemoteAddr returns the visitor's address, a *net.TCPAddr. If the server stands
// behind proxies that it trusts, it is what they have forwarded, and the port is
// 0. It is 0.0.0.0:0 if the server does not know it.
func (c *Conn) RemoteAddr() net.Addr { return c.c.RemoteAddr() }

// LocalAddr returns the address of the server that the visitor connected to. If
// the server does not say, it is the ID, as an address of network "adit".
func (c *Conn) LocalAddr() net.Addr { return c.c.LocalAddr() }

// Host returns the hostname that the visitor asked for, in lower case and
// without port: with WithTLS the server name of its handshake, for HTTP the Host
// of the first request. It is empty if there is none.
func (c *Conn) Host() string { return c.c.Host() }

// Read returns what the visitor sent, and io.EOF after the end of that.
func (c *Conn) Read(p []byte) (int, error) { return c.c.Read(p) }

// Write sends to the visitor. It returns when the bytes are on their way, which
// may be before they have arrived.
func (c *Conn) Write(p []byte) (int, error) { return c.c.Write(p) }

// ReadFrom is what io.Copy uses.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) { return c.c.ReadFrom(r) }

// WriteTo is what io.Copy uses.
func (c *Conn) WriteTo(w io.Writer) (int64, error) { return c.c.WriteTo(w) }

// CloseWrite ends the direction to the visitor, who reads the end of it behind
// what was written. Read goes on.
func (c *Conn) CloseWrite() error { return c.c.CloseWrite() }

// Close ends both directions. What was written before still arrives, unless the
// connection to the server is lost for good. Calls after the first return nil.
func (c *Conn) Close() error { return c.c.Close() }

// Reset ends both directions so that the visitor sees an error and no clean end,
// as a TCP conn does that is closed after SetLinger(0).
func (c *Conn) Reset() error { return c.c.Reset(tunnel.ResetUpstream, "") }

// SetDeadline sets both deadlines. The zero time means none.
func (c *Conn) SetDeadline(t time.Time) error { return c.c.SetDeadline(t) }

// SetReadDeadline bounds present and later calls of Read; they then fail with
// os.ErrDeadlineExceeded.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.c.SetReadDeadline(t) }

// SetWriteDeadline bounds present and later calls of Write; they then fail with
// os.ErrDeadlineExceeded.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.c.SetWriteDeadline(t) }
