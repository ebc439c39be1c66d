package native

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"adit/dialect"
	"adit/internal/printable"
	"adit/session"
	"adit/tunnel"
)

// The layouts in this file are those of docs/protocol/native.md, "The agent and
// the server".

// Tags of a stream's metadata.
const (
	metaService  = 1
	metaProtocol = 2
	metaVisitor  = 3
	metaLocal    = 4
	metaHost     = 5

	metaNetwork = 6 // these are of streams that an agent opens
	metaTarget  = 7
	metaPort    = 8
)

func appendTarget(b []byte, t tunnel.Target) []byte {
	b = session.AppendStringField(b, metaService, t.Service)
	b = session.AppendStringField(b, metaNetwork, string(t.Network))
	b = session.AppendStringField(b, metaTarget, t.Host)
	if t.Port != 0 {
		b = session.AppendUintField(b, metaPort, uint64(t.Port))
	}
	return b
}

func parseTarget(b []byte) (t tunnel.Target, err error) {
	err = session.ParseFields(b, func(tag uint64, v []byte) (err error) {
		switch tag {
		case metaService:
			t.Service = string(v)
		case metaNetwork:
			t.Network = tunnel.Network(v)
		case metaTarget:
			t.Host = string(v)
		case metaPort:
			t.Port, err = parsePort(v)
		}
		return err
	})
	if err == nil {
		err = t.Check()
	}
	return t, err
}

func appendInfo(b []byte, info tunnel.StreamInfo) []byte {
	b = session.AppendStringField(b, metaService, info.Service)
	b = session.AppendStringField(b, metaProtocol, info.Protocol)
	b = appendAddr(b, metaVisitor, info.Visitor)
	b = appendAddr(b, metaLocal, info.Local)
	return session.AppendStringField(b, metaHost, info.Host)
}

func appendAddr(b []byte, tag uint64, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return b
	}
	var v [18]byte
	ip := a.Addr().Unmap()
	n := copy(v[:], ip.AsSlice())
	binary.BigEndian.PutUint16(v[n:], a.Port())
	return session.AppendField(b, tag, v[:n+2])
}

func parseInfo(b []byte) (info tunnel.StreamInfo, err error) {
	err = session.ParseFields(b, func(tag uint64, v []byte) (err error) {
		switch tag {
		case metaService:
			info.Service = string(v)
		case metaProtocol:
			info.Protocol = string(v)
		case metaVisitor:
			info.Visitor, err = parseAddr(v)
		case metaLocal:
			info.Local, err = parseAddr(v)
		case metaHost:
			info.Host = string(v)
		}
		return err
	})
	return info, err
}

func parseAddr(v []byte) (netip.AddrPort, error) {
	if len(v) != 6 && len(v) != 18 {
		return netip.AddrPort{}, fmt.Errorf("address with %d bytes: it takes 6 or 18", len(v))
	}
	ip, _ := netip.AddrFromSlice(v[:len(v)-2])
	return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(v[len(v)-2:])), nil
}

// Methods of calls, statuses of their results, and the tags of both.
const (
	callBind    = 1
	callUnbind  = 2
	callRefresh = 3

	statusOK      = 0
	statusRefused = 1
	statusUnknown = 2

	bindKey     = 1
	bindKind    = 2
	bindID      = 3
	bindService = 4
	bindPort    = 5
	bindHost    = 6 // may stand more than once
	bindHTTP2   = 7
	bindPolicy  = 8
	bindVisitor = 9
	bindName    = 10
	bindAddr    = 11

	boundURL    = 1
	boundPort   = 2
	boundAddr   = 3
	boundPolicy = 4

	refusedCode   = 1
	refusedReason = 2

	refreshCredential = 1
)

func appendBinding(b []byte, bd dialect.Binding) []byte {
	b = session.AppendStringField(b, bindKey, bd.Key)
	b = session.AppendStringField(b, bindKind, string(bd.Kind))
	b = session.AppendStringField(b, bindID, string(bd.ID))
	b = session.AppendStringField(b, bindService, bd.Service)
	if bd.Port != 0 {
		b = session.AppendUintField(b, bindPort, uint64(bd.Port))
	}
	for _, h := range bd.Hostnames {
		b = session.AppendStringField(b, bindHost, h)
	}
	if bd.HTTP2 {
		b = session.AppendUintField(b, bindHTTP2, 1)
	}
	if len(bd.Policy) > 0 {
		b = session.AppendField(b, bindPolicy, bd.Policy)
	}
	if bd.PerVisitor {
		b = session.AppendUintField(b, bindVisitor, 1)
	}
	b = session.AppendStringField(b, bindName, bd.Name)
	if bd.Addr.IsValid() {
		b = session.AppendField(b, bindAddr, bd.Addr.Unmap().AsSlice())
	}
	return b
}

func parseBinding(b []byte) (bd dialect.Binding, err error) {
	err = session.ParseFields(b, func(tag uint64, v []byte) (err error) {
		switch tag {
		case bindKey:
			bd.Key = string(v)
		case bindKind:
			bd.Kind = dialect.Kind(v)
		case bindID:
			bd.ID = tunnel.ID(v)
		case bindService:
			bd.Service = string(v)
		case bindPort:
			bd.Port, err = parsePort(v)
		case bindHost:
			if len(v) == 0 {
				return errors.New("hostname is empty")
			}
			if len(bd.Hostnames) == maxHostnames {
				return fmt.Errorf("more than %d hostnames in one binding", maxHostnames)
			}
			bd.Hostnames = append(bd.Hostnames, string(v))
		case bindHTTP2:
			var n uint64
			n, err = session.UintField(v)
			bd.HTTP2 = n != 0
		case bindPolicy:
			if bd.Policy = nil; len(v) > 0 {
				bd.Policy = bytes.Clone(v)
			}
		case bindVisitor:
			var n uint64
			n, err = session.UintField(v)
			bd.PerVisitor = n != 0
		case bindName:
			bd.Name = string(v)
		case bindAddr:
			a, ok := netip.AddrFromSlice(v)
			if !ok {
				return fmt.Errorf("address with %d bytes: it takes 4 or 16", len(v))
			}
			bd.Addr = a.Unmap()
		}
		return err
	})
	return bd, err
}

// maxHostnames bounds the hostnames of one binding.
const maxHostnames = 64

func parsePort(v []byte) (uint16, error) {
	p, err := session.UintField(v)
	if err == nil && p > 65535 {
		err = fmt.Errorf("port %d: it takes 0 to 65535", p)
	}
	return uint16(p), err
}

func appendBound(b []byte, bd dialect.Bound) []byte {
	for _, u := range bd.URLs {
		b = session.AppendStringField(b, boundURL, u)
	}
	if bd.Port != 0 {
		b = session.AppendUintField(b, boundPort, uint64(bd.Port))
	}
	b = appendAddr(b, boundAddr, bd.Addr)
	if bd.Policy {
		b = session.AppendUintField(b, boundPolicy, 1)
	}
	return b
}

func parseBound(b []byte) (bd dialect.Bound, err error) {
	err = session.ParseFields(b, func(tag uint64, v []byte) (err error) {
		switch tag {
		case boundURL:
			if u := shown(v, maxURL); u != string(v) || u == "" {
				return fmt.Errorf("URL %q: it takes 1 to %d printable bytes", u, maxURL)
			}
			bd.URLs = append(bd.URLs, string(v))
		case boundPort:
			bd.Port, err = parsePort(v)
		case boundAddr:
			bd.Addr, err = parseAddr(v)
		case boundPolicy:
			var n uint64
			n, err = session.UintField(v)
			bd.Policy = n != 0
		}
		return err
	})
	return bd, err
}

// Bytes of text that an agent takes from a server, and may show.
const (
	maxURL     = 2048
	maxRefusal = 1024
)

// shown makes text from the other side fit for logs and terminals.
func shown(v []byte, limit int) string { return printable.Text(string(v[:min(len(v), limit)])) }

func parseRefusal(b []byte) error {
	e := &dialect.BindError{Code: dialect.BindInternal}
	session.ParseFields(b, func(tag uint64, v []byte) error {
		switch tag {
		case refusedCode:
			e.Code = dialect.BindCode(shown(v, maxRefusal))
		case refusedReason:
			e.Reason = shown(v, maxRefusal)
		}
		return nil
	})
	return e
}
