package quicconn

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"

	"github.com/quic-go/quic-go"
)

// Limits bounds what those take who come to a Listener. The zero value has
// limits too.
type Limits struct {
	// Conns is how many there may be at a time; 0 means 65536. Handshakes is how
	// many of them may be on their way to their first byte; 0 means 256.
	Conns, Handshakes int
}

var errFull = errors.New("quicconn: too many connections")

// A Listener accepts connections. It answers whoever it does not know with as
// little as it got, until the address has been found to be right (RFC 9000,
// section 8.1.2), and only then begins a handshake.
type Listener struct {
	limits    Limits
	transport *transport
	listener  *quic.Listener
	accepted  chan *Conn
	closing   context.Context
	close     context.CancelFunc
	running   sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	conns   int
	waiting int
}

var _ net.Listener = (*Listener)(nil)

// Listen listens on a UDP address. config has the certificates. The caller
// closes the listener, and then calls End.
func Listen(addr string, tlsConfig *tls.Config, limits Limits) (*Listener, error) {
	if limits.Conns <= 0 {
		limits.Conns = 1 << 16
	}
	if limits.Handshakes <= 0 {
		limits.Handshakes = 256
	}
	socket, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, err
	}
	l := &Listener{limits: limits, accepted: make(chan *Conn)}
	l.closing, l.close = context.WithCancel(context.Background())
	l.transport = &transport{&quic.Transport{
		Conn:                socket,
		VerifySourceAddress: func(net.Addr) bool { return true },
		ConnContext:         l.admit,
	}, socket}
	tlsConfig = tlsConfig.Clone()
	tlsConfig.NextProtos = []string{Protocol}
	tlsConfig.MinVersion = tls.VersionTLS13
	if l.listener, err = l.transport.Listen(tlsConfig, config(1)); err != nil {
		l.close()
		l.transport.Close()
		return nil, err
	}
	l.running.Go(l.run)
	return l, nil
}

type seatKey struct{}

// A seat is what a connection takes of the limits.
type seat struct {
	l       *Listener
	settled sync.Once
}

// settle says that the handshake has ended.
func (s *seat) settle() {
	s.settled.Do(func() {
		s.l.mu.Lock()
		defer s.l.mu.Unlock()
		s.l.waiting--
	})
}

// admit gives a connection a seat, before anything is done for it.
func (l *Listener) admit(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns >= l.limits.Conns || l.waiting >= l.limits.Handshakes || l.closing.Err() != nil {
		return nil, errFull
	}
	l.conns++
	l.waiting++
	s := &seat{l: l}
	context.AfterFunc(ctx, func() {
		s.settle()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conns--
	})
	return context.WithValue(ctx, seatKey{}, s), nil
}

// run accepts connections until the listener is closed.
func (l *Listener) run() {
	for {
		qc, err := l.listener.Accept(l.closing)
		if err != nil {
			return
		}
		l.running.Go(func() { l.take(qc) })
	}
}

// take waits for the stream of a connection and hands that out.
func (l *Listener) take(qc *quic.Conn) {
	ctx, cancel := context.WithTimeout(l.closing, handshakeTime)
	defer cancel()
	stream, err := qc.AcceptStream(ctx)
	if s, ok := qc.Context().Value(seatKey{}).(*seat); ok {
		s.settle()
	}
	if err != nil {
		qc.CloseWithError(codeBusy, "no stream")
		return
	}
	select {
	case l.accepted <- &Conn{stream: stream, conn: qc}:
	case <-ctx.Done():
		qc.CloseWithError(codeBusy, "busy")
	}
}

// Accept returns the next connection, a *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.closing.Done():
		return nil, net.ErrClosed
	}
}

// Close lets nobody in any more. Connections go on, until End.
func (l *Listener) Close() error {
	l.close()
	err := l.listener.Close()
	l.running.Wait()
	return err
}

// End closes the listener and ends all its connections.
func (l *Listener) End() error {
	l.Close()
	return l.transport.Close()
}

// Addr returns the address that is listened on, a *net.UDPAddr.
func (l *Listener) Addr() net.Addr { return l.listener.Addr() }
