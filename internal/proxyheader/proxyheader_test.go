package proxyheader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sig = "\r\n\r\n\x00\r\nQUIT\n"

// header2 is a header of version 2.
func header2(command, family byte, rest ...[]byte) string {
	body := slices.Concat(rest...)
	b := append([]byte(sig), command, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return string(append(b, body...))
}

var (
	v4 = []byte{192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0x01, 0xbb}
	v6 = slices.Concat(netip.MustParseAddr("2001:db8::1").AsSlice(), netip.MustParseAddr("2001:db8::2").AsSlice(), []byte{0x12, 0x34, 0x01, 0xbb})

	want4 = Header{netip.MustParseAddrPort("192.0.2.1:4660"), netip.MustParseAddrPort("198.51.100.2:443")}
	want6 = Header{netip.MustParseAddrPort("[2001:db8::1]:4660"), netip.MustParseAddrPort("[2001:db8::2]:443")}
)

// withSum returns a header of version 2 with a checksum, which is wrong by that
// much.
func withSum(wrong uint32) string {
	b := []byte(header2(0x21, 0x11, v4, []byte{3, 0, 4, 0, 0, 0, 0, 4, 0, 1, 0}))
	at := 16 + len(v4) + 3
	binary.BigEndian.PutUint32(b[at:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))+wrong)
	return string(b)
}

func TestRead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   string
		want Header
		err  error
	}{
		{"text, IPv4", "PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n", want4, nil},
		{"text, IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 4660 443\r\n", want6, nil},
		{"text, IPv4 in IPv6", "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 4660 443\r\n", want4, nil},
		{"text, unknown", "PROXY UNKNOWN\r\n", Header{}, nil},
		{"text, unknown with more", "PROXY UNKNOWN ffff:f::f ffff:f::f 65535 65535\r\n", Header{}, nil},
		{"longest text", "PROXY UNKNOWN " + strings.Repeat("f", maxText-16) + "\r\n", Header{}, nil},
		{"binary, IPv4", header2(0x21, 0x11, v4), want4, nil},
		{"binary, IPv6", header2(0x21, 0x21, v6), want6, nil},
		{"binary, with more", header2(0x21, 0x11, v4, []byte{2, 0, 1, 'a', 0xee, 0, 0}), want4, nil},
		{"binary, checksum", withSum(0), want4, nil},
		{"binary, local", header2(0x20, 0x00), Header{}, nil},
		{"binary, local with addresses", header2(0x20, 0x11, v4), Header{}, nil},
		{"binary, unspecified", header2(0x21, 0x00, []byte{4, 0, 0}), Header{}, nil},

		{"nothing like it", "GET / HTTP/1.1\r\n\r\n", Header{}, ErrMissing},
		{"short and nothing like it", "GET /", Header{}, ErrMissing},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 more of it", Header{}, ErrMissing},
		{"text, another word", "PROXYTCP4 192.0.2.1 198.51.100.2 4660 443\r\n", Header{}, ErrMissing},
		{"text in lower case", "proxy tcp4 192.0.2.1 198.51.100.2 4660 443\r\n", Header{}, ErrMissing},
		{"text, too long", "PROXY UNKNOWN " + strings.Repeat("f", 200) + "\r\n", Header{}, ErrMalformed},
		{"text, bare LF", "PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\n", Header{}, ErrMalformed},
		{"text, LF early", "PROXY T\r\nabcdefghijk", Header{}, ErrMalformed},
		{"text, port too large", "PROXY TCP4 192.0.2.1 198.51.100.2 4660 65536\r\n", Header{}, ErrMalformed},
		{"text, negative port", "PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n", Header{}, ErrMalformed},
		{"text, leading zeros", "PROXY TCP4 192.0.2.1 198.51.100.2 04660 443\r\n", Header{}, ErrMalformed},
		{"text, other family", "PROXY TCP4 2001:db8::1 2001:db8::2 4660 443\r\n", Header{}, ErrMalformed},
		{"text, a name", "PROXY TCP4 localhost 198.51.100.2 4660 443\r\n", Header{}, ErrMalformed},
		{"text, field missing", "PROXY TCP4 192.0.2.1 198.51.100.2 4660\r\n", Header{}, ErrMalformed},
		{"text, field too many", "PROXY TCP4 192.0.2.1 198.51.100.2 4660 443 1\r\n", Header{}, ErrMalformed},
		{"text, two spaces", "PROXY TCP4  192.0.2.1 198.51.100.2 4660 443\r\n", Header{}, ErrMalformed},
		{"text, UDP", "PROXY UDP4 192.0.2.1 198.51.100.2 4660 443\r\n", Header{}, ErrMalformed},
		{"binary, version 3", header2(0x31, 0x11, v4), Header{}, ErrMalformed},
		{"binary, unknown command", header2(0x22, 0x11, v4), Header{}, ErrMalformed},
		{"binary, too short", header2(0x21, 0x11, v4[:11]), Header{}, ErrMalformed},
		{"binary, too long", header2(0x21, 0x11, v4, make([]byte, maxBinary)), Header{}, ErrMalformed},
		{"binary, UDP", header2(0x21, 0x12, v4), Header{}, ErrProtocol},
		{"binary, unix", header2(0x21, 0x31, make([]byte, 216)), Header{}, ErrProtocol},
		{"binary, wrong checksum", withSum(1), Header{}, ErrChecksum},
		{"binary, wrong length inside", header2(0x21, 0x11, v4, []byte{2, 0, 9, 'a'}), Header{}, ErrMalformed},

		{"cut", "PROXY TCP4 192.0.2.1 198.51", Header{}, io.EOF},
		{"cut early", "PROX", Header{}, io.ErrUnexpectedEOF},
		{"binary, cut", header2(0x21, 0x11, v4)[:20], Header{}, io.ErrUnexpectedEOF},
		{"empty", "", Header{}, io.EOF},
	} {
		const behind = "what follows"
		r := strings.NewReader(tt.in + behind)
		if errors.Is(tt.err, io.EOF) || errors.Is(tt.err, io.ErrUnexpectedEOF) {
			r = strings.NewReader(tt.in)
		}
		got, err := read(iotest.OneByteReader(r))
		if !errors.Is(err, tt.err) || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v, %v", tt.name, got, err, tt.want, tt.err)
		}
		if rest, _ := io.ReadAll(r); tt.err == nil && string(rest) != behind {
			t.Errorf("%s: %q is left, want %q", tt.name, rest, behind)
		}
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		version       int
		remote, local string
		host          string
		want          string
	}{
		{"text", Text, "192.0.2.1:4660", "198.51.100.2:443", "a", "PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n"},
		{"text, IPv6", Text, "[2001:db8::1]:4660", "[2001:db8::2]:443", "", "PROXY TCP6 2001:db8::1 2001:db8::2 4660 443\r\n"},
		{"text, both families", Text, "192.0.2.1:4660", "[2001:db8::2]:443", "", "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 4660 443\r\n"},
		{"text, local unknown", Text, "192.0.2.1:4660", "", "", "PROXY TCP4 192.0.2.1 0.0.0.0 4660 0\r\n"},
		{"text, mapped, local unknown", Text, "[::ffff:192.0.2.1]:1", "", "", "PROXY TCP4 192.0.2.1 0.0.0.0 1 0\r\n"},
		{"text, visitor unknown", Text, "", "198.51.100.2:443", "", "PROXY UNKNOWN\r\n"},
		{"binary", Binary, "192.0.2.1:4660", "198.51.100.2:443", "", header2(0x21, 0x11, v4)},
		{"binary, IPv6", Binary, "[2001:db8::1]:4660", "[2001:db8::2]:443", "", header2(0x21, 0x21, v6)},
		{"binary, name", Binary, "192.0.2.1:4660", "198.51.100.2:443", "a.b", header2(0x21, 0x11, v4, []byte{2, 0, 3, 'a', '.', 'b'})},
		{"binary, visitor unknown", Binary, "", "", "", header2(0x20, 0x00)},
	} {
		parse := func(s string) (a netip.AddrPort) {
			if s != "" {
				a = netip.MustParseAddrPort(s)
			}
			return a
		}
		got, err := Format(tt.version, parse(tt.remote), parse(tt.local), tt.host)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
		}
		if h, err := read(bytes.NewReader(got)); err != nil || h.Remote != plain(parse(tt.remote)) {
			t.Errorf("%s: it is read as %+v, %v", tt.name, h, err)
		}
	}
	if _, err := Format(3, netip.AddrPort{}, netip.AddrPort{}, ""); err == nil {
		t.Error("version 3: got no error")
	}
}

// accept opens a listener that takes headers from those prefixes, and returns
// a conn to it from 127.0.0.1 that has sent b.
func accept(t *testing.T, b string, from ...string) (near *net.TCPConn, far net.Conn) {
	t.Helper()
	tl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tl.Close()
	var prefixes []netip.Prefix
	for _, f := range from {
		prefixes = append(prefixes, netip.MustParsePrefix(f))
	}
	l := Listen(tl, prefixes)
	c, err := net.Dial("tcp", tl.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	io.WriteString(c, b)
	far, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	far.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.TCPConn), far
}

func TestListener(t *testing.T) {
	t.Parallel()
	const header = "PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n"
	near, far := accept(t, header+"hello", "10.0.0.0/8", "127.0.0.0/8")
	if got := far.RemoteAddr().String(); got != near.LocalAddr().String() {
		t.Errorf("before the header: got the remote address %s, want that of the socket", got)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := Meet(far); err != nil {
				t.Errorf("Meet: %v", err)
			}
		})
	}
	wg.Wait()
	if r, l := far.RemoteAddr().String(), far.LocalAddr().String(); r != "192.0.2.1:4660" || l != "198.51.100.2:443" {
		t.Errorf("got the addresses %s and %s, want those of the header", r, l)
	}
	near.CloseWrite()
	if b, err := io.ReadAll(far); string(b) != "hello" {
		t.Errorf("got %q, %v, want what is behind the header", b, err)
	}

	// Others must not say who they are.
	near, far = accept(t, header, "10.0.0.0/8")
	if err := Meet(far); err != nil || far.RemoteAddr().String() != near.LocalAddr().String() {
		t.Errorf("from elsewhere: got the remote address %s, %v, want that of the socket", far.RemoteAddr(), err)
	}
	near.CloseWrite()
	if b, _ := io.ReadAll(far); string(b) != header {
		t.Errorf("from elsewhere: got %q, want the header as it is", b)
	}

	// A conn of the load balancer's own keeps its addresses.
	near, far = accept(t, "PROXY UNKNOWN\r\n", "127.0.0.1/32")
	if err := Meet(far); err != nil || far.RemoteAddr().String() != near.LocalAddr().String() {
		t.Errorf("unknown: got the remote address %s, %v, want that of the socket", far.RemoteAddr(), err)
	}

	// Without one nobody comes in.
	_, far = accept(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "127.0.0.1/32")
	if err := Meet(far); !errors.Is(err, ErrMissing) {
		t.Errorf("without a header: got %v, want %v", err, ErrMissing)
	}
}

// Nobody is waited for forever.
func TestMeetTimesOut(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes as long as the limit")
	}
	start := time.Now()
	_, far := accept(t, "PROXY TCP4 192.0.2.1 ", "127.0.0.1/32")
	if err := Meet(far); !errors.Is(err, ErrMissing) || time.Since(start) > 2*timeout {
		t.Errorf("got %v after %v, want %v after %v", err, time.Since(start), ErrMissing, timeout)
	}
}

// Whatever comes, nothing of what is behind a header is taken, and what was
// understood can be said again.
func FuzzRead(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\nmore"))
	f.Add([]byte("PROXY TCP6 2001:db8::1 2001:db8::2 4660 443\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(header2(0x21, 0x11, v4)))
	f.Add([]byte(header2(0x21, 0x21, v6, []byte{4, 0, 1, 0})))
	f.Add([]byte(withSum(0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, err := read(r)
		if used := len(b) - r.Len(); used > binaryFixed+maxBinary {
			t.Fatalf("read %d bytes", used)
		}
		if err != nil {
			return
		}
		if h.Remote.IsValid() != h.Local.IsValid() {
			t.Fatalf("got one address without the other: %+v", h)
		}
		for _, version := range []int{Text, Binary} {
			again, err := Format(version, h.Remote, h.Local, "")
			if err != nil {
				t.Fatalf("format %+v: %v", h, err)
			}
			if got, err := read(bytes.NewReader(again)); err != nil || got != h {
				t.Errorf("version %d: %+v became %+v, %v", version, h, got, err)
			}
		}
	})
}
