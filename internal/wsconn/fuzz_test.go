package wsconn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"
	"unicode/utf8"
)

// scriptConn is a conn that delivers given bytes in parts of given sizes, and
// takes what is written.
type scriptConn struct {
	net.Conn // nil; only the methods below are used
	rest     []byte
	parts    []byte // sizes, used in turn
	i        int
	closed   bool
}

func (s *scriptConn) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := len(p)
	if len(s.parts) > 0 {
		n = min(n, int(s.parts[s.i%len(s.parts)])+1)
		s.i++
	}
	n = copy(p[:n], s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *scriptConn) Write(p []byte) (int, error)      { return len(p), nil }
func (s *scriptConn) Close() error                     { s.closed = true; return nil }
func (s *scriptConn) SetWriteDeadline(time.Time) error { return nil }

const fuzzMaxFrame = 1 << 17

// reference decodes all of b in the plainest way. end is io.EOF,
// io.ErrUnexpectedEOF, a *CloseError, or a *ProtocolError of which only the
// code counts.
func reference(b []byte, role Role) (payload []byte, end error) {
	bad := func(code int) ([]byte, error) { return payload, &ProtocolError{Code: code} }
	inMessage := false
	for {
		if len(b) == 0 && !inMessage {
			return payload, io.EOF
		}
		if len(b) < 2 {
			return payload, io.ErrUnexpectedEOF
		}
		fin, rsv, op := b[0]>>7 == 1, b[0]>>4&7, b[0]&15
		masked, n := b[1]>>7 == 1, uint64(b[1]&127)
		if rsv != 0 || masked != (role == Server) {
			return bad(1002)
		}
		switch {
		case op == 1:
			return bad(1003)
		case op == 0 && !inMessage, op == 2 && inMessage, op > 2 && op < 8, op > 10:
			return bad(1002)
		case op >= 8 && (!fin || n > 125):
			return bad(1002)
		}
		head := 2
		if n == 126 {
			head = 4
		} else if n == 127 {
			head = 10
		}
		if masked {
			head += 4
		}
		if len(b) < head {
			return payload, io.ErrUnexpectedEOF
		}
		if n == 126 {
			if n = uint64(binary.BigEndian.Uint16(b[2:])); n < 126 {
				return bad(1002)
			}
		} else if n == 127 {
			if n = binary.BigEndian.Uint64(b[2:]); n < 1<<16 || n >= 1<<63 {
				return bad(1002)
			}
		}
		if n > fuzzMaxFrame {
			return bad(1009)
		}
		var key [4]byte
		if masked {
			copy(key[:], b[head-4:])
		}
		b = b[head:]
		data := bytes.Clone(b[:min(n, uint64(len(b)))])
		b = b[len(data):]
		for i := range data {
			data[i] ^= key[i%4]
		}
		if op < 8 {
			inMessage = !fin
			payload = append(payload, data...)
		}
		if uint64(len(data)) < n {
			return payload, io.ErrUnexpectedEOF
		}
		if op != 8 {
			continue
		}
		if len(data) == 0 {
			return payload, io.EOF
		}
		if len(data) == 1 {
			return bad(1002)
		}
		code := int(data[0])<<8 | int(data[1])
		switch {
		case !(code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999):
			return bad(1002)
		case !utf8.Valid(data[2:]):
			return bad(1007)
		case code <= 1001:
			return payload, io.EOF
		}
		return payload, &CloseError{Code: code, Reason: string(data[2:])}
	}
}

func sameEnd(got, want error) bool {
	var pg, pw *ProtocolError
	if errors.As(want, &pw) {
		return errors.As(got, &pg) && pg.Code == pw.Code
	}
	var cg, cw *CloseError
	if errors.As(want, &cw) {
		return errors.As(got, &cg) && *cg == *cw
	}
	return got == want
}

// FuzzRead feeds any bytes, in any parts, to a Conn that is read with any
// sizes, and compares with the reference.
func FuzzRead(f *testing.F) {
	for _, masked := range []bool{true, false} {
		join := func(frames ...[]byte) []byte { return slices.Concat(frames...) }
		f.Add(rawFrame(0x82, masked, "hello"), 0, masked, []byte{0}, []byte{0})
		f.Add(join(rawFrame(0x02, masked, "a"), rawFrame(0x89, masked, "p"), rawFrame(0x80, masked, "b"),
			rawFrame(0x88, masked, code(1000, "bye"))), 3, masked, []byte{3, 1}, []byte{40, 2})
		f.Add(join(rawFrame(0x82, masked, string(content(300))), rawFrame(0x82, masked, ""),
			rawFrame(0x88, masked, code(4000, "x"))), 0, masked, []byte{200}, []byte{255, 33})
		f.Add(join(rawFrame(0x82, masked, string(content(70000))), rawFrame(0x82, masked, string(content(40000)))),
			10, masked, []byte{}, []byte{0, 255})
		f.Add([]byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 0, masked, []byte{}, []byte{9})
	}
	f.Fuzz(func(t *testing.T, sent []byte, buffered int, toServer bool, parts, reads []byte) {
		if len(reads) == 0 {
			reads = []byte{255}
		}
		role := Client
		if toServer {
			role = Server
		}
		want, wantEnd := reference(sent, role)
		buffered = min(max(buffered, 0), len(sent))
		keep := bytes.Clone(sent)
		sc := &scriptConn{rest: sent[buffered:], parts: parts}
		c := New(sc, role, Options{Buffered: sent[:buffered], MaxFrame: fuzzMaxFrame})
		var got []byte
		buf := make([]byte, 80<<10)
		for i := 0; ; i++ {
			size := int(reads[i%len(reads)])
			if size >= 200 {
				size = size * size * size % len(buf) // large reads too
			}
			if size%7 == 3 {
				if err := c.WaitRead(); err != nil && !sameEnd(err, wantEnd) {
					t.Fatalf("WaitRead = %v, want %v", err, wantEnd)
				}
			}
			p := buf[:size+1]
			n, err := c.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				if !sameEnd(err, wantEnd) {
					t.Errorf("end = %v, want %v", err, wantEnd)
				}
				break
			}
			if n == 0 {
				t.Fatal("Read = 0, nil")
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, want %d", len(got), len(want))
		}
		if !bytes.Equal(sent, keep) {
			t.Error("Options.Buffered was modified")
		}
		if c.buffered != nil {
			t.Error("Options.Buffered is kept after its use")
		}
		c.Close()
		if !sc.closed {
			t.Error("Close did not close the conn")
		}
	})
}

// FuzzXOR compares with the plainest way.
func FuzzXOR(f *testing.F) {
	f.Add([]byte("hello"), uint32(0x04030201), 3)
	f.Add(content(5000), uint32(0xdeadbeef), 2049)
	f.Fuzz(func(t *testing.T, src []byte, key uint32, split int) {
		want := make([]byte, len(src))
		for i := range src {
			want[i] = src[i] ^ byte(key>>(i%4*8))
		}
		split = min(max(split, 0), len(src))
		got := make([]byte, len(src))
		next := xor(got[:split], src[:split], key)
		xor(got[split:], src[split:], next)
		if !bytes.Equal(got, want) {
			t.Errorf("xor of %d bytes, split at %d, is wrong", len(src), split)
		}
		next = xor(src[:split], src[:split], key)
		xor(src[split:], src[split:], next)
		if !bytes.Equal(src, want) {
			t.Errorf("xor in place of %d bytes, split at %d, is wrong", len(src), split)
		}
	})
}
