// Package quicconn makes a net.Conn of one QUIC connection with one stream (RFC
// 9000), so that a carrier that would have a TCP connection with TLS can have
// that instead.
//
// The agent dials:
//
//	conn, err := quicconn.Dial(ctx, "tunnel.example.com:443", tlsConfig)
//
// The server has a net.Listener, whose conns are *Conn:
//
//	l, err := quicconn.Listen(":443", tlsConfig, quicconn.Limits{})
package quicconn

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// Protocol is what both sides agree on in TLS (ALPN).
const Protocol = "adit.1"

const (
	handshakeTime = 10 * time.Second
	idleTime      = 30 * time.Second // sessions say something every 9 s
	lastWords     = 250 * time.Millisecond

	firstWindow = 512 << 10 // bytes
	maxWindow   = 16 << 20  // of a path with much delay
	packetSize  = 1280      // until a larger one has been found to get through
)

// Application error codes of CONNECTION_CLOSE.
const (
	codeDone quic.ApplicationErrorCode = 0
	codeBusy quic.ApplicationErrorCode = 1
)

func config(streams int64) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           handshakeTime / 2, // twice that is the limit
		MaxIdleTimeout:                 idleTime,
		InitialStreamReceiveWindow:     firstWindow,
		MaxStreamReceiveWindow:         maxWindow,
		InitialConnectionReceiveWindow: firstWindow,
		MaxConnectionReceiveWindow:     maxWindow,
		MaxIncomingStreams:             streams,
		MaxIncomingUniStreams:          -1,
		InitialPacketSize:              packetSize,
	}
}

// A Conn is a QUIC connection with its stream. Its methods are safe for
// concurrent use, as those of a net.Conn.
type Conn struct {
	stream *quic.Stream
	conn   *quic.Conn
	socket io.Closer // of the side that dialled; nil on the other

	writing sync.Mutex // held during Write
	closing sync.Once
}

var _ net.Conn = (*Conn)(nil)

func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.stream.Read(p)
	return n, translate(err)
}

func (c *Conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	n, err := c.stream.Write(p)
	return n, translate(err)
}

// translate makes an orderly end of the connection the end of the stream.
func translate(err error) error {
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok && e.Remote && e.ErrorCode == codeDone {
		return io.EOF
	}
	return err
}

// Close ends the connection. What was written before gets a moment to arrive.
func (c *Conn) Close() error {
	c.closing.Do(func() {
		if c.writing.TryLock() { // nobody writes who would have to be interrupted
			c.stream.Close()
			c.writing.Unlock()
			wait := time.NewTimer(lastWords)
			select {
			case <-c.conn.Context().Done():
			case <-wait.C:
			}
			wait.Stop()
		}
		c.conn.CloseWithError(codeDone, "")
		if c.socket != nil {
			c.socket.Close()
		}
	})
	return nil
}

// LocalAddr returns this end's address.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr returns the other end's present address: it changes if the other
// end moves to another network, which the connection outlives.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// SetDeadline sets the deadlines for reading and writing.
func (c *Conn) SetDeadline(t time.Time) error { return c.stream.SetDeadline(t) }

// SetReadDeadline sets the deadline for reading.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline for writing.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }

// TLS returns what was agreed on in the handshake.
func (c *Conn) TLS() tls.ConnectionState { return c.conn.ConnectionState().TLS }

// Encrypted says that nobody between can read what is written.
func (c *Conn) Encrypted() bool { return true }

// A transport is a QUIC transport with its socket.
type transport struct {
	*quic.Transport
	socket net.PacketConn
}

// Close ends all connections of the transport, and closes the socket.
func (t *transport) Close() error { return errors.Join(t.Transport.Close(), t.socket.Close()) }

// Dial opens a connection to the server at addr, a host and port, and its
// stream. Of several addresses it takes the first that answers. config has the
// server's name, and whom to trust. ctx bounds only this.
func Dial(ctx context.Context, addr string, tlsConfig *tls.Config) (*Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	tlsConfig = tlsConfig.Clone()
	tlsConfig.NextProtos = []string{Protocol}
	tlsConfig.MinVersion = tls.VersionTLS13
	var failed error
	for _, ip := range ips {
		to, err := net.ResolveUDPAddr("udp", net.JoinHostPort(ip.Unmap().String(), port))
		if err != nil {
			return nil, err
		}
		c, err := dial(ctx, to, tlsConfig)
		if err == nil {
			return c, nil
		}
		if failed = err; ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

func dial(ctx context.Context, to *net.UDPAddr, tlsConfig *tls.Config) (_ *Conn, err error) {
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, err
	}
	t := &transport{&quic.Transport{Conn: socket}, socket}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	qc, err := t.Dial(ctx, to, tlsConfig, config(-1))
	if err != nil {
		return nil, err
	}
	stream, err := qc.OpenStream()
	if err != nil {
		return nil, err
	}
	return &Conn{stream: stream, conn: qc, socket: t}, nil
}
