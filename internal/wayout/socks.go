package wayout

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"

	"adit/internal/replay"
)

// Of SOCKS5 (RFC 1928) and its login (RFC 1929).
const (
	socksVersion  = 5
	socksConnect  = 1
	socksNoLogin  = 0
	socksPassword = 2
	socksNone     = 0xff
	loginVersion  = 1

	socksIPv4 = 1
	socksName = 3
	socksIPv6 = 4
)

// socksReplies are the reasons of a refusal (RFC 1928, section 6).
var socksReplies = map[byte]struct {
	kind Kind
	text string
}{
	1: {ServerUnreachable, "general failure"},
	2: {Forbidden, "its rules forbid it"},
	3: {ServerUnreachable, "network unreachable"},
	4: {ServerUnreachable, "host unreachable"},
	5: {ServerUnreachable, "connection refused"},
	6: {ServerUnreachable, "expired on the way (TTL)"},
	7: {NoProxy, "it does not know the command CONNECT"},
	8: {NoProxy, "it does not know this type of address"},
}

// dialSOCKS asks a SOCKS5 proxy for a connection to addr. The proxy resolves
// the name, whichever of the schemes the URL has.
func (d *Dialer) dialSOCKS(ctx context.Context, via *url.URL, addr string) (net.Conn, error) {
	conn, settle, err := d.open(ctx, via)
	if err != nil {
		return nil, err
	}
	err = askSOCKS(conn, via.User, addr)
	if !settle() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		if _, ok := errors.AsType[*Error](err); !ok {
			err = &Error{Kind: NoProxy, Err: fmt.Errorf("SOCKS5: %w", err)}
		}
		return nil, err
	}
	return &Conn{replay.New(conn, nil)}, nil
}

// askSOCKS runs the handshake. It reads no byte beyond it.
func askSOCKS(conn io.ReadWriter, user *url.Userinfo, addr string) error {
	request, err := socksRequest(addr)
	if err != nil {
		return err
	}
	greeting := []byte{socksVersion, 1, socksNoLogin}
	if user != nil {
		greeting = []byte{socksVersion, 2, socksNoLogin, socksPassword}
	}
	if _, err := conn.Write(greeting); err != nil {
		return err
	}
	var answer [4]byte
	if _, err := io.ReadFull(conn, answer[:2]); err != nil {
		return closed(err)
	}
	switch method := answer[1]; {
	case answer[0] != socksVersion:
		return fmt.Errorf("the answer is of version %d", answer[0])
	case method == socksNoLogin:
	case method == socksPassword && user != nil:
		if err := loginSOCKS(conn, user); err != nil {
			return err
		}
	case method == socksNone && user != nil:
		return &Error{Kind: LoginRefused, Err: errors.New("it takes neither a password nor none")}
	case method == socksNone:
		return &Error{Kind: LoginNeeded}
	default:
		return fmt.Errorf("it chose the method %d, which was not offered", method)
	}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return closed(err)
	}
	if answer[0] != socksVersion {
		return fmt.Errorf("the answer is of version %d", answer[0])
	}
	if code := answer[1]; code != 0 {
		reply, ok := socksReplies[code]
		if !ok {
			return &Error{Kind: ServerUnreachable, Err: fmt.Errorf("unknown reason %d", code)}
		}
		return &Error{Kind: reply.kind, Err: errors.New(reply.text)}
	}
	return skipAddress(conn, answer[3])
}

// loginSOCKS shows user and password (RFC 1929).
func loginSOCKS(conn io.ReadWriter, user *url.Userinfo) error {
	name := user.Username()
	password, _ := user.Password()
	if len(name) == 0 || len(name) > 255 || len(password) > 255 {
		return &Error{Kind: Setting, Err: errors.New("SOCKS5 takes a user of 1 to 255 bytes and a password of at most 255")}
	}
	b := append([]byte{loginVersion, byte(len(name))}, name...)
	b = append(append(b, byte(len(password))), password...)
	if _, err := conn.Write(b); err != nil {
		return err
	}
	var answer [2]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return closed(err)
	}
	if answer[1] != 0 {
		return &Error{Kind: LoginRefused}
	}
	return nil
}

// socksRequest returns the request for addr (RFC 1928, section 4).
func socksRequest(addr string) ([]byte, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q: 1 to 65535 are allowed", port)
	}
	b := []byte{socksVersion, socksConnect, 0}
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap().WithZone("")
		kind := byte(socksIPv6)
		if ip.Is4() {
			kind = socksIPv4
		}
		b = append(append(b, kind), ip.AsSlice()...)
	} else {
		if len(host) > 255 {
			return nil, fmt.Errorf("the server's name has %d bytes: at most 255 are allowed", len(host))
		}
		b = append(append(b, socksName, byte(len(host))), host...)
	}
	return binary.BigEndian.AppendUint16(b, uint16(n)), nil
}

// skipAddress reads the address that the proxy connects from, which means
// nothing here.
func skipAddress(r io.Reader, kind byte) error {
	size := 0
	switch kind {
	case socksIPv4:
		size = 4
	case socksIPv6:
		size = 16
	case socksName:
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return closed(err)
		}
		size = int(n[0])
	default:
		return fmt.Errorf("the answer has an address of the unknown type %d", kind)
	}
	var rest [255 + 2]byte
	_, err := io.ReadFull(r, rest[:size+2])
	return closed(err)
}

// closed says that the end of a connection came too early.
func closed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the connection was closed")
	}
	return err
}
