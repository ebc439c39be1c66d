// Package proxyheader says at the start of a conn who is at the far end of it,
// where something else is in between: with the header of the PROXY protocol,
// version 1 or 2, of HAProxy.
//
// A load balancer that puts itself before a listener sends one:
//
//	l = proxyheader.Listen(l, prefixes)
//	conn, err := l.Accept()
//	...
//	err := proxyheader.Meet(conn) // not in the accept loop: it waits
//	conn.RemoteAddr()             // of the visitor
//
// Format returns one to send.
package proxyheader

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

// Versions of the protocol.
const (
	Text   = 1 // one line
	Binary = 2
)

const (
	maxText     = 107     // bytes of a header of version 1
	leastText   = 15      // of the shortest: "PROXY UNKNOWN" and the line's end
	binaryFixed = 16      // of a header of version 2 before what has a length
	maxBinary   = 4 << 10 // of the rest
	maxHostname = 255     // in a header of version 2
)

// Errors of a conn whose header is not accepted.
var (
	ErrMissing   = errors.New("PROXY protocol: the conn does not begin with a header")
	ErrMalformed = errors.New("PROXY protocol: the header is malformed")
	ErrProtocol  = errors.New("PROXY protocol: the header is for something else than TCP")
	ErrChecksum  = errors.New("PROXY protocol: the header's checksum is wrong")
)

// A Header is what a header says. Remote and Local are not valid if it is for a
// conn of the sender's own, such as a health check, or if the sender does not
// know.
type Header struct {
	Remote, Local netip.AddrPort
}

// read reads a header, and not a byte more.
func read(r io.Reader) (Header, error) {
	raw := make([]byte, leastText, maxText)
	if n, err := io.ReadFull(r, raw); err != nil {
		if n > 0 && !mayBegin(raw[:n]) {
			err = ErrMissing
		}
		return Header{}, err
	}
	switch {
	case bytes.HasPrefix(raw, proxyproto.SIGV2):
		return readBinary(r, raw)
	case bytes.HasPrefix(raw, []byte("PROXY ")):
		return readText(r, raw)
	}
	return Header{}, ErrMissing
}

// mayBegin reports whether b is how a header begins.
func mayBegin(b []byte) bool {
	for _, sig := range [][]byte{proxyproto.SIGV1, proxyproto.SIGV2} {
		n := min(len(b), len(sig))
		if bytes.Equal(b[:n], sig[:n]) {
			return true
		}
	}
	return false
}

func readText(r io.Reader, raw []byte) (Header, error) {
	for !bytes.HasSuffix(raw, []byte("\n")) {
		if len(raw) == maxText || bytes.IndexByte(raw, '\n') >= 0 {
			return Header{}, ErrMalformed
		}
		raw = append(raw, 0)
		if _, err := io.ReadFull(r, raw[len(raw)-1:]); err != nil {
			return Header{}, err
		}
	}
	return parse(raw)
}

func readBinary(r io.Reader, raw []byte) (Header, error) {
	raw = append(raw, 0)
	if _, err := io.ReadFull(r, raw[leastText:]); err != nil {
		return Header{}, err
	}
	n := int(binary.BigEndian.Uint16(raw[binaryFixed-2:]))
	if n > maxBinary {
		return Header{}, ErrMalformed
	}
	raw = append(raw, make([]byte, n)...)
	if _, err := io.ReadFull(r, raw[binaryFixed:]); err != nil {
		return Header{}, err
	}
	return parse(raw)
}

// parse parses a whole header.
func parse(raw []byte) (Header, error) {
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		if len(raw) > 12 && raw[12] == 0x21 && raw[13] == 0 { // PROXY, and does not say for what
			return Header{}, checkSum(raw)
		}
		return Header{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if h.Version == Binary {
		if err := checkSum(raw); err != nil {
			return Header{}, err
		}
	}
	if h.Command.IsLocal() {
		return Header{}, nil
	}
	remote, local, ok := h.TCPAddrs()
	if !ok {
		return Header{}, ErrProtocol
	}
	return Header{plain(remote.AddrPort()), plain(local.AddrPort())}, nil
}

func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// checkSum checks the checksum of a header of version 2, if it has one.
func checkSum(raw []byte) error {
	for at := binaryFixed + addresses(raw[13]); at+3 <= len(raw); {
		n := int(binary.BigEndian.Uint16(raw[at+1:]))
		end := at + 3 + n
		if end > len(raw) {
			return ErrMalformed
		}
		if proxyproto.PP2Type(raw[at]) == proxyproto.PP2_TYPE_CRC32C {
			if n != 4 {
				return ErrMalformed
			}
			want := binary.BigEndian.Uint32(raw[at+3:])
			zeroed := bytes.Clone(raw)
			clear(zeroed[at+3 : end])
			if crc32.Checksum(zeroed, crc32.MakeTable(crc32.Castagnoli)) != want {
				return ErrChecksum
			}
		}
		at = end
	}
	return nil
}

// addresses returns how many bytes those of a family take.
func addresses(family byte) int {
	switch family >> 4 {
	case 1:
		return 12
	case 2:
		return 36
	case 3:
		return 216
	}
	return 0
}

// Format returns the header for a conn from remote to local. If remote is not
// valid it says that the conn is the sender's own. host is the name that the
// visitor asked for, which version 2 has room for; it may be empty.
func Format(version int, remote, local netip.AddrPort, host string) ([]byte, error) {
	if version != Text && version != Binary {
		return nil, fmt.Errorf("PROXY protocol version %d: 1 and 2 are allowed", version)
	}
	h := &proxyproto.Header{Version: byte(version), Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	if remote.IsValid() {
		if !local.IsValid() {
			local = netip.AddrPortFrom(unspecifiedLike(remote.Addr()), 0)
		}
		h = proxyproto.HeaderProxyFromAddrs(byte(version), tcpAddr(remote), tcpAddr(local))
	}
	if version == Binary && host != "" && len(host) <= maxHostname {
		if err := h.SetTLVs([]proxyproto.TLV{{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte(host)}}); err != nil {
			return nil, err
		}
	}
	return h.Format()
}

func unspecifiedLike(a netip.Addr) netip.Addr {
	if a.Unmap().Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func tcpAddr(a netip.AddrPort) *net.TCPAddr { return net.TCPAddrFromAddrPort(plain(a)) }
