package forward

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"adit/internal/replay"
	"adit/tunnel"
)

// SOCKS, RFC 1928.
const (
	socksVersion = 5
	socks4       = 4 // which has no document; 0 and 91 are its refusal

	socksNoAuth       = 0x00
	socksNoAcceptable = 0xff

	socksConnect   = 1
	socksAssociate = 3

	socksIPv4   = 1
	socksDomain = 3
	socksIPv6   = 4
)

// Replies of SOCKS5.
const (
	replyOK             = 0
	replyFailure        = 1
	replyForbidden      = 2
	replyNetUnreachable = 3
	replyUnreachable    = 4
	replyRefused        = 5
	replyTimeout        = 6
	replyCommand        = 7
	replyAddress        = 8
)

// socksReply is what a failure of OpenFunc is to somebody who speaks SOCKS.
func socksReply(err error) byte {
	re, ok := errors.AsType[*tunnel.RefusedError](err)
	if !ok {
		return replyNetUnreachable // the server is not reached
	}
	switch re.Code {
	case tunnel.RefuseForbidden:
		return replyForbidden
	case tunnel.RefuseUnknownHost, tunnel.RefuseUnreachable, tunnel.RefuseUnknownService:
		return replyUnreachable
	case tunnel.RefuseUpstreamRefused:
		return replyRefused
	case tunnel.RefuseUpstreamTimeout:
		return replyTimeout
	}
	return replyFailure
}

func (g *greeter) socks5(ctx context.Context, c net.Conn, br *bufio.Reader) {
	if err := socksGreet(c, br); err != nil {
		g.log.Debug("SOCKS greeting failed", "err", err)
		c.Close()
		return
	}
	command, t, reply, err := readSocksRequest(br)
	if err == nil && command == socksAssociate && g.associate == nil {
		reply, err = replyCommand, errors.New("UDP ASSOCIATE is not offered here: CONNECT is allowed")
	}
	if err != nil {
		g.log.Warn("SOCKS request refused", "err", err)
		if reply != replyOK {
			c.Write(appendSocksReply(nil, reply, netip.AddrPort{}))
		}
		c.Close()
		return
	}
	if command == socksAssociate {
		c.SetDeadline(time.Time{})
		g.associate(ctx, c)
		return
	}
	stream, err := g.dialAsked(ctx, c, br, t)
	if err != nil {
		c.SetDeadline(time.Now().Add(greetingTimeout))
		c.Write(appendSocksReply(nil, socksReply(err), netip.AddrPort{}))
		c.Close()
		return
	}
	if _, err := c.Write(appendSocksReply(nil, replyOK, netip.AddrPort{})); err != nil {
		reset(stream)
		c.Close()
		return
	}
	g.relay(replay.Buffered(c, br), stream, t)
}

// socksGreet agrees on no authentication: who reaches the listener may use it.
func socksGreet(w io.Writer, r io.Reader) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return err
	}
	method := byte(socksNoAcceptable)
	for _, m := range methods {
		if m == socksNoAuth {
			method = socksNoAuth
		}
	}
	if _, err := w.Write([]byte{socksVersion, method}); err != nil {
		return err
	}
	if method != socksNoAuth {
		return errors.New("it asks for a password, and there is none here")
	}
	return nil
}

// readSocksRequest reads what is asked for. With an error, reply says how to
// answer; 0 is not at all.
func readSocksRequest(r io.Reader) (command byte, t tunnel.Target, reply byte, err error) {
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, t, 0, err
	}
	if head[0] != socksVersion {
		return 0, t, replyFailure, fmt.Errorf("version %d: 5 is allowed", head[0])
	}
	command = head[1]
	t, reply, err = readSocksAddr(r)
	switch {
	case err != nil:
	case command != socksConnect && command != socksAssociate:
		return command, t, replyCommand, fmt.Errorf("command %d: CONNECT and UDP ASSOCIATE are allowed", command)
	case command == socksConnect:
		t.Network = tunnel.TCP
		if err = t.Check(); err != nil {
			reply = replyAddress
		}
	}
	return command, t, reply, err
}

// readSocksAddr reads an address with its port, which may be malformed.
func readSocksAddr(r io.Reader) (t tunnel.Target, reply byte, err error) {
	var buf [256]byte
	read := func(n int) (b []byte) {
		if err == nil {
			b = buf[:n]
			_, err = io.ReadFull(r, b)
		}
		return b
	}
	kind := read(1)
	if err != nil {
		return t, 0, err
	}
	switch kind[0] {
	case socksIPv4:
		read(4)
		a, _ := netip.AddrFromSlice(buf[:4])
		t.Host = a.String()
	case socksIPv6:
		read(16)
		a, _ := netip.AddrFromSlice(buf[:16])
		t.Host = a.Unmap().String()
	case socksDomain:
		if n := read(1); err == nil {
			t.Host = string(read(int(n[0])))
		}
	default:
		return t, replyAddress, fmt.Errorf("address of kind %d: 1, 3 and 4 are allowed", kind[0])
	}
	port := read(2)
	if err != nil {
		return t, 0, err
	}
	t.Port = binary.BigEndian.Uint16(port)
	return t, 0, nil
}

// appendSocksReply appends a reply; without an address it says 0.0.0.0:0.
func appendSocksReply(b []byte, reply byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		a = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return appendSocksAddr(append(b, socksVersion, reply, 0), a)
}

func appendSocksAddr(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().Unmap()
	kind := byte(socksIPv6)
	if ip.Is4() {
		kind = socksIPv4
	}
	b = append(append(b, kind), ip.AsSlice()...)
	return binary.BigEndian.AppendUint16(b, a.Port())
}

// appendSocksTarget appends the host of t in the form in which it was asked for.
func appendSocksTarget(b []byte, t tunnel.Target) []byte {
	if a, err := netip.ParseAddr(t.Host); err == nil {
		return appendSocksAddr(b, netip.AddrPortFrom(a, t.Port))
	}
	b = append(append(b, socksDomain, byte(len(t.Host))), t.Host...)
	return binary.BigEndian.AppendUint16(b, t.Port)
}
