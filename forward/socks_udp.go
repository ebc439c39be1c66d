package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"adit/internal/datagrams"
	"adit/internal/udpsocket"
	"adit/tunnel"
)

// associate serves UDP ASSOCIATE: a UDP socket beside the listener, for as long
// as the connection c lives. Its first sender, which has to have the address of
// c's far side, is the only one.
func (l *Local) associate(ctx context.Context, c net.Conn) {
	defer c.Close()
	at, peer := udpHost(c)
	if !at.IsValid() {
		c.Write(appendSocksReply(nil, replyCommand, netip.AddrPort{}))
		return
	}
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		l.log.Warn("UDP socket not opened", "err", err)
		c.Write(appendSocksReply(nil, replyFailure, netip.AddrPort{}))
		return
	}
	bound := netip.AddrPortFrom(at, uint16(pc.LocalAddr().(*net.UDPAddr).Port))
	if _, err := c.Write(appendSocksReply(nil, replyOK, bound)); err != nil {
		pc.Close()
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	socket := udpsocket.New(pc, udpsocket.Options{})
	f := l.newFlows(ctx, socket, func(t tunnel.Target) []byte { return appendSocksTarget([]byte{0, 0, 0}, t) })
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		var b [1]byte
		c.Read(b[:]) // nothing more comes but its end
	})
	stop := context.AfterFunc(ctx, func() {
		pc.Close()
		c.SetReadDeadline(time.Unix(1, 0))
	})
	l.readAssociated(ctx, f, socket, peer)
	cancel()
	stop()
	pc.Close()
	c.SetReadDeadline(time.Unix(1, 0))
	wg.Wait()
	f.Wait()
}

// udpHost returns the address of this end of c, and of the other. They are not
// valid if it is no TCP connection.
func udpHost(c net.Conn) (local, peer netip.Addr) {
	la, ok1 := c.LocalAddr().(*net.TCPAddr)
	ra, ok2 := c.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return
	}
	return la.AddrPort().Addr().Unmap(), ra.AddrPort().Addr().Unmap()
}

// readAssociated takes datagrams in until the socket is closed.
func (l *Local) readAssociated(ctx context.Context, f *datagrams.Flows[flowKey], socket *udpsocket.Socket, peer netip.Addr) {
	var sender netip.AddrPort
	take := func(r udpsocket.Run) {
		if r.From.Addr().Unmap() != peer {
			return
		}
		if !sender.IsValid() {
			sender = r.From
		} else if sender != r.From {
			return
		}
		for b := range r.All() {
			t, payload, err := parseSocksDatagram(b)
			if err != nil {
				l.log.Debug("datagram dropped", "err", err)
				continue
			}
			f.Queue(flowKey{r.From, t}, udpsocket.Run{B: payload})
		}
	}
	for {
		err := socket.Receive(take)
		f.Flush()
		if err != nil && (ctx.Err() != nil || errors.Is(err, net.ErrClosed)) {
			return
		}
	}
}

// parseSocksDatagram takes the header off a datagram (RFC 1928, section 7).
func parseSocksDatagram(b []byte) (t tunnel.Target, payload []byte, err error) {
	if len(b) < 3 || b[0] != 0 || b[1] != 0 {
		return t, nil, errors.New("datagram without a SOCKS header")
	}
	if b[2] != 0 {
		return t, nil, errors.New("fragment of a datagram, which are not put together")
	}
	r := bytes.NewReader(b[3:])
	if t, _, err = readSocksAddr(r); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("datagram with half a SOCKS header")
		}
		return t, nil, err
	}
	t.Network = tunnel.UDP
	return t, b[len(b)-r.Len():], t.Check()
}
