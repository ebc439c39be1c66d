package clienthello_test

import (
	"crypto/tls"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"adit/internal/clienthello"
)

func TestNames(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		config *tls.Config
		want   clienthello.Hello
	}{
		{"plain", &tls.Config{ServerName: "www.example.com"}, clienthello.Hello{ServerName: "www.example.com"}},
		{"upper case", &tls.Config{ServerName: "WWW.Example.COM"}, clienthello.Hello{ServerName: "www.example.com"}},
		{"none", &tls.Config{InsecureSkipVerify: true}, clienthello.Hello{}},
		{"with ALPN", &tls.Config{ServerName: "a.example", NextProtos: []string{"h2", "acme-tls/1"}},
			clienthello.Hello{ServerName: "a.example", Protocols: []string{"h2", "acme-tls/1"}}},
		{"TLS 1.2", &tls.Config{ServerName: "a.example", MaxVersion: tls.VersionTLS12}, clienthello.Hello{ServerName: "a.example"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := hello(t, tc.config)
			for _, step := range []int{1, 7, len(b)} {
				for _, size := range []int{64, 1000, 1 << 14} {
					got, err := scan(append(records(b, size), "early data"...), step)
					if err != nil || !reflect.DeepEqual(got, tc.want) {
						t.Errorf("steps of %d, records of %d: got %+v, %v, want %+v", step, size, got, err, tc.want)
					}
				}
			}
		})
	}
}

// message builds a ClientHello in one record.
func message(extensions ...[]byte) []byte {
	ext := slices.Concat(extensions...)
	body := slices.Concat([]byte{3, 3}, make([]byte, 32), []byte{0, 0, 2, 0x13, 1, 1, 0}, length16(ext))
	msg := append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	return append([]byte{22, 3, 1, byte(len(msg) >> 8), byte(len(msg))}, msg...)
}

func length16(b []byte) []byte { return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...) }

func extension(kind uint16, body []byte) []byte {
	return append([]byte{byte(kind >> 8), byte(kind)}, length16(body)...)
}

// sni is a server_name extension with names of type host_name.
func sni(names ...string) []byte {
	var list []byte
	for _, n := range names {
		list = append(append(list, 0), length16([]byte(n))...)
	}
	return extension(0, length16(list))
}

func TestOddNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	for _, tc := range []struct {
		name string
		b    []byte
		want clienthello.Hello
		err  error
	}{
		{"dot at the end", message(sni("example.com.")), clienthello.Hello{ServerName: "example.com"}, nil},
		{"underscore", message(sni("_a.example.com")), clienthello.Hello{ServerName: "_a.example.com"}, nil},
		{"IPv4 address", message(sni("192.0.2.1")), clienthello.Hello{}, nil},
		{"IPv6 address", message(sni("2001:db8::1")), clienthello.Hello{}, nil},
		{"IPv6 address in brackets", message(sni("[2001:db8::1]")), clienthello.Hello{}, nil},
		{"outer name", message(sni("public.example"), extension(0xfe0d, []byte{0, 1})), clienthello.Hello{ServerName: "public.example", ECH: true}, nil},
		{"another type of name", message(extension(0, length16([]byte{7, 0, 1, 'x', 0, 0, 1, 'a'}))), clienthello.Hello{ServerName: "a"}, nil},
		{"only another type", message(extension(0, length16([]byte{7, 0, 1, 'x'}))), clienthello.Hello{}, nil},
		{"unknown extension", message(extension(0x1a1a, nil), sni("a")), clienthello.Hello{ServerName: "a"}, nil},
		{"longest label", message(sni(long + ".example")), clienthello.Hello{ServerName: long + ".example"}, nil},

		{"two names", message(sni("a", "b")), clienthello.Hello{}, clienthello.ErrDuplicate},
		{"two extensions", message(sni("a"), sni("b")), clienthello.Hello{}, clienthello.ErrDuplicate},
		{"empty name", message(sni("")), clienthello.Hello{}, clienthello.ErrMalformed},
		{"dot", message(sni(".")), clienthello.Hello{}, clienthello.ErrServerName},
		{"empty label", message(sni("a..b")), clienthello.Hello{}, clienthello.ErrServerName},
		{"long label", message(sni(long + "a.example")), clienthello.Hello{}, clienthello.ErrServerName},
		{"long name", message(sni(strings.Repeat(long+".", 4) + "example")), clienthello.Hello{}, clienthello.ErrServerName},
		{"NUL", message(sni("a\x00.example")), clienthello.Hello{}, clienthello.ErrServerName},
		{"slash", message(sni("a/b")), clienthello.Hello{}, clienthello.ErrServerName},
		{"colon", message(sni("a:443")), clienthello.Hello{}, clienthello.ErrServerName},
		{"lower case by folding", message(sni("\u212a.example")), clienthello.Hello{}, clienthello.ErrServerName},
		{"empty list", message(extension(0, []byte{0, 0})), clienthello.Hello{}, clienthello.ErrMalformed},
		{"bytes behind the list", message(extension(0, []byte{0, 4, 0, 0, 1, 'a', 0})), clienthello.Hello{}, clienthello.ErrMalformed},
		{"list too short", message(extension(0, []byte{0, 3, 0, 0, 1, 'a'})), clienthello.Hello{}, clienthello.ErrMalformed},
		{"empty protocol", message(extension(16, []byte{0, 1, 0})), clienthello.Hello{}, clienthello.ErrMalformed},
		{"half an extension", message([]byte{0, 0, 0}), clienthello.Hello{}, clienthello.ErrMalformed},
		{"many extensions", message(manyExtensions(257)), clienthello.Hello{}, clienthello.ErrTooLarge},
	} {
		got, err := scan(tc.b, len(tc.b))
		if !errors.Is(err, tc.err) || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, %v, want %+v, %v", tc.name, got, err, tc.want, tc.err)
		}
	}
}

func manyExtensions(n int) (b []byte) {
	for i := range n {
		b = append(b, extension(uint16(0x4000+i), nil)...)
	}
	return b
}

func TestRefusedRecords(t *testing.T) {
	t.Parallel()
	good := message(sni("a"))
	change := func(at int, to byte) []byte {
		b := slices.Clone(good)
		b[at] = to
		return b
	}
	for _, tc := range []struct {
		name string
		b    []byte
		want error
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), clienthello.ErrNotTLS},
		{"one byte of HTTP", []byte("G"), clienthello.ErrNotTLS},
		{"SSH", []byte("SSH-2.0-x\r\n"), clienthello.ErrNotTLS},
		{"SSL 2", []byte{0x80, 0x2e, 1, 3, 1}, clienthello.ErrNotTLS},
		{"alert", []byte{21, 3, 1, 0, 2, 2, 0}, clienthello.ErrNotTLS},
		{"another version", change(1, 2), clienthello.ErrNotTLS},
		{"ServerHello", change(5, 2), clienthello.ErrUnexpected},
		{"empty record", []byte{22, 3, 1, 0, 0}, clienthello.ErrEmptyRecord},
		{"empty record between", append(records(good, 20)[:25], 22, 3, 1, 0, 0), clienthello.ErrEmptyRecord},
		{"alert between", append(records(good, 20)[:25], 21, 3, 1, 0, 2), clienthello.ErrUnexpected},
		{"long record", []byte{22, 3, 1, 0x40, 1}, clienthello.ErrRecordSize},
		{"long message", []byte{22, 3, 1, 0x40, 0, 1, 0, 0x40, 0}, clienthello.ErrTooLarge},
		{"longest message", []byte{22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff}, clienthello.ErrTooLarge},
		{"length over two records", []byte{22, 3, 1, 0, 2, 1, 1, 22, 3, 1, 0, 2, 0, 0}, clienthello.ErrTooLarge},
		{"many records", records(message(sni("a"), manyExtensions(60)), 1), clienthello.ErrTooLarge},
		{"message behind it", append([]byte{22, 3, 1, 0, byte(len(good))}, append(slices.Clone(good[5:]), 1, 0, 0, 0, 0)...), clienthello.ErrSurplus},
		{"message that begins behind it", slices.Concat(records(good, 20)[:25], []byte{22, 3, 1, 0x40, 0}), clienthello.ErrSurplus},
		{"shorter than it says", change(8, 40), clienthello.ErrSurplus},
		{"longer than it says", change(8, 200), io.ErrUnexpectedEOF},
		{"long session ID", change(5+4+2+32, 33), clienthello.ErrMalformed},
		{"no cipher suites", change(5+4+2+32+2, 0), clienthello.ErrMalformed},
		{"nothing", nil, io.ErrUnexpectedEOF},
	} {
		for _, step := range []int{1, max(1, len(tc.b))} {
			if _, err := scan(tc.b, step); err != tc.want {
				t.Errorf("%s, steps of %d: got %v, want %v", tc.name, step, err, tc.want)
			}
		}
	}
}

// Before TLS 1.2 there were messages without extensions.
func TestNoExtensions(t *testing.T) {
	t.Parallel()
	body := slices.Concat([]byte{3, 1}, make([]byte, 32), []byte{0, 0, 2, 0, 47, 1, 0})
	b := append([]byte{22, 3, 0, 0, byte(4 + len(body)), 1, 0, 0, byte(len(body))}, body...)
	if got, err := scan(b, len(b)); err != nil || got.ServerName != "" {
		t.Errorf("got %+v, %v, want no name", got, err)
	}
}

// Nothing makes a scanner want more than MaxBytes.
func TestBounds(t *testing.T) {
	t.Parallel()
	ext := manyExtensions(250)
	b := message(ext, extension(0xff, make([]byte, clienthello.MaxMessage-len(ext)-47-4)))
	if n := len(b) - 5; n != clienthello.MaxMessage {
		t.Fatalf("the message has %d bytes: want %d", n, clienthello.MaxMessage)
	}
	spread := records(b, clienthello.MaxMessage/clienthello.MaxRecords)
	if len(spread) > clienthello.MaxBytes {
		t.Errorf("the largest message takes %d bytes, more than MaxBytes, %d", len(spread), clienthello.MaxBytes)
	}
	if _, err := scan(spread, len(spread)); err != nil {
		t.Errorf("largest message: %v", err)
	}
}

// Whatever crypto/tls takes for the name, this package takes too, or refuses
// the message.
func FuzzScanner(f *testing.F) {
	for _, c := range []*tls.Config{
		{ServerName: "www.example.com", NextProtos: []string{"h2", "http/1.1"}},
		{ServerName: "www.example.com", MaxVersion: tls.VersionTLS12},
		{InsecureSkipVerify: true},
	} {
		b := hello(f, c)
		f.Add(b)
		f.Add(records(b, 50))
	}
	f.Add(message(sni("a", "b")))
	f.Add(message(sni("192.0.2.1"), extension(0xfe0d, nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := scan(b, max(1, len(b)))
		slow, slowErr := scan(b, 1)
		if err != slowErr || !reflect.DeepEqual(got, slow) {
			t.Fatalf("at once %+v, %v, byte by byte %+v, %v", got, err, slow, slowErr)
		}
		if err == io.ErrUnexpectedEOF && len(b) >= clienthello.MaxBytes {
			t.Fatalf("wants more than MaxBytes")
		}
		if err != nil {
			return
		}
		name, protocols, ok := standard(b)
		if !ok {
			return // it is stricter elsewhere, such as on key shares
		}
		if want := strings.ToLower(strings.TrimSuffix(name, ".")); got.ServerName != want && got.ServerName != "" {
			t.Errorf("got the name %q, crypto/tls has %q", got.ServerName, name)
		} else if got.ServerName == "" && strings.ContainsFunc(name, func(r rune) bool { return r >= 'g' && r <= 'z' }) {
			t.Errorf("got no name, crypto/tls has %q", name)
		}
		if !slices.Equal(got.Protocols, protocols) {
			t.Errorf("got the protocols %q, crypto/tls has %q", got.Protocols, protocols)
		}
	})
}
