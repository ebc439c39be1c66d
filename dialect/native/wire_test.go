package native

import (
	"encoding/hex"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"adit/dialect"
	"adit/session"
	"adit/tunnel"
)

func TestInfoRoundTrip(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("[2001:db8::1]:65535")
	for name, tt := range map[string]struct{ in, want tunnel.StreamInfo }{
		"empty":       {tunnel.StreamInfo{}, tunnel.StreamInfo{}},
		"all":         {tunnel.StreamInfo{Service: "s", Protocol: "http", Visitor: v4, Local: v6, Host: "web.example.com"}, tunnel.StreamInfo{Service: "s", Protocol: "http", Visitor: v4, Local: v6, Host: "web.example.com"}},
		"mapped IPv4": {tunnel.StreamInfo{Visitor: netip.MustParseAddrPort("[::ffff:192.0.2.1]:443")}, tunnel.StreamInfo{Visitor: v4}},
		"with a zone": {tunnel.StreamInfo{Visitor: netip.MustParseAddrPort("[fe80::1%eth0]:1")}, tunnel.StreamInfo{Visitor: netip.MustParseAddrPort("[fe80::1]:1")}},
	} {
		got, err := parseInfo(appendInfo(nil, tt.in))
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tt.want)
		}
	}
}

// TestInfoBytes pins the layout of docs/protocol/native.md.
func TestInfoBytes(t *testing.T) {
	t.Parallel()
	got := appendInfo(nil, tunnel.StreamInfo{Service: "s", Protocol: "tcp", Visitor: netip.MustParseAddrPort("192.0.2.1:443"), Host: "h"})
	if want := "\x01\x01s\x02\x03tcp\x03\x06\xc0\x00\x02\x01\x01\xbb\x05\x01h"; string(got) != want {
		t.Errorf("metadata is %q, want %q", got, want)
	}
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]string{
		"truncated":                "\x01\x05a",
		"address of 5 bytes":       "\x03\x05aaaaa",
		"address of 17 bytes":      "\x03\x11aaaaaaaaaaaaaaaaa",
		"local without an address": "\x04\x00",
	} {
		if info, err := parseInfo([]byte(b)); err == nil {
			t.Errorf("metadata, %s: %+v, want an error", name, info)
		}
	}
	for name, b := range map[string]string{
		"truncated":      "\x01\x05a",
		"port 65536":     "\x05\x03\x80\x80\x04",
		"port of no use": "\x05\x01\x80",
		"port empty":     "\x05\x00",
		"65 hostnames":   strings.Repeat("\x06\x01a", maxHostnames+1),
		"HTTP/2 empty":   "\x07\x00",
		"hostname empty": "\x06\x00",
	} {
		if bd, err := parseBinding([]byte(b)); err == nil {
			t.Errorf("binding, %s: %+v, want an error", name, bd)
		}
	}
	for name, b := range map[string][]byte{
		"port 65536":          session.AppendUintField(nil, boundPort, 65536),
		"address of no bytes": session.AppendField(nil, boundAddr, nil),
		"URL with an escape":  session.AppendStringField(nil, boundURL, "http://a/\x1b[2J"),
		"URL too long":        session.AppendStringField(nil, boundURL, strings.Repeat("x", 3000)),
	} {
		if bd, err := parseBound(b); err == nil {
			t.Errorf("result of bind, %s: %+v, want an error", name, bd)
		}
	}
}

func TestBindingRoundTrip(t *testing.T) {
	t.Parallel()
	for _, want := range []dialect.Binding{
		{},
		{Key: "0", Kind: dialect.HTTP, ID: "web"},
		{Key: "k", Kind: dialect.TCP, ID: "db", Service: "postgres", Port: 65535},
		{Key: "k", Kind: dialect.UDP, ID: "dns", Port: 53, Addr: netip.MustParseAddr("127.0.0.1")},
		{Key: "k", Kind: dialect.TCP, ID: "db", Addr: netip.MustParseAddr("2001:db8::1")},
		{Key: "k", Kind: dialect.TLS, ID: "db", Hostnames: []string{"a.example.com", "b.example.com"}},
		{Key: "k", Kind: dialect.HTTP, ID: "rpc", HTTP2: true, PerVisitor: true, Policy: []byte(`{"allow_ip":["192.0.2.0/24"]}`)},
	} {
		if got, err := parseBinding(appendBinding(nil, want)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	for _, want := range []dialect.Bound{
		{},
		{URLs: []string{"https://a.example.com/", "https://b.example.com/"}},
		{URLs: []string{"tcp://a:1"}, Port: 1, Addr: netip.MustParseAddrPort("127.0.0.1:1")},
	} {
		if got, err := parseBound(appendBound(nil, want)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
}

// The address of a binding is field 11, of 4 or 16 bytes.
func TestBindAddressOnTheWire(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"0b047f000001":                         "127.0.0.1",
		"0b1000000000000000000000000000000001": "::1",
		"0b1000000000000000000000ffff7f000001": "127.0.0.1",
		"0b0400000000":                         "0.0.0.0",
		"0b03010203":                           "",
		"0b00":                                 "",
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		bd, err := parseBinding(b)
		if want == "" {
			if err == nil {
				t.Errorf("%s: got %v, want an error", text, bd.Addr)
			}
			continue
		}
		if err != nil || bd.Addr.String() != want {
			t.Errorf("%s: got %v, %v, want %s", text, bd.Addr, err, want)
		}
	}
	if got := hex.EncodeToString(appendBinding(nil, dialect.Binding{Addr: netip.MustParseAddr("::ffff:127.0.0.1")})); !strings.Contains(got, "0b047f000001") {
		t.Errorf("got %s, want the field 0b047f000001 in it", got)
	}
}

func FuzzInfo(f *testing.F) {
	f.Add(appendInfo(nil, tunnel.StreamInfo{Service: "s", Protocol: "http", Visitor: netip.MustParseAddrPort("192.0.2.1:443"), Local: netip.MustParseAddrPort("[::1]:80"), Host: "h"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := parseInfo(b)
		if err != nil {
			return
		}
		if got, err := parseInfo(appendInfo(nil, info)); err != nil || got != info {
			t.Errorf("%x is %+v, and %+v, %v after a round trip", b, info, got, err)
		}
	})
}

func FuzzBinding(f *testing.F) {
	f.Add(appendBinding(nil, dialect.Binding{Key: "k", Kind: dialect.TCP, ID: "db", Service: "postgres", Port: 65535}))
	f.Add(appendBinding(nil, dialect.Binding{Key: "k", Kind: dialect.HTTP, Hostnames: []string{"h"}, HTTP2: true, Policy: []byte("{}")}))
	f.Add(appendBound(nil, dialect.Bound{URLs: []string{"tcp://a:1"}, Port: 1, Addr: netip.MustParseAddrPort("127.0.0.1:1")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if bd, err := parseBinding(b); err == nil {
			if got, err := parseBinding(appendBinding(nil, bd)); err != nil || !reflect.DeepEqual(got, bd) {
				t.Errorf("%x is %+v, and %+v, %v after a round trip", b, bd, got, err)
			}
		}
		if bd, err := parseBound(b); err == nil {
			if got, err := parseBound(appendBound(nil, bd)); err != nil || !reflect.DeepEqual(got, bd) {
				t.Errorf("%x is %+v, and %+v, %v after a round trip", b, bd, got, err)
			}
		}
		parseRefusal(b)
	})
}

func TestTargetWire(t *testing.T) {
	t.Parallel()
	for _, want := range []tunnel.Target{
		{Network: tunnel.TCP, Host: "db.internal", Port: 5432},
		{Network: tunnel.UDP, Host: "2001:db8::1", Port: 53},
		{Network: tunnel.Unix, Host: "/run/x.sock"},
		{Network: tunnel.Agent, Host: "office", Service: "ssh"},
	} {
		got, err := parseTarget(appendTarget(nil, want))
		if err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

func FuzzTarget(f *testing.F) {
	f.Add(appendTarget(nil, tunnel.Target{Network: tunnel.TCP, Host: "db.internal", Port: 5432}))
	f.Add(appendTarget(nil, tunnel.Target{Network: tunnel.Agent, Host: "office", Service: "ssh"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseTarget(b)
		if err == nil && got.Check() != nil {
			t.Errorf("got the malformed target %+v", got)
		}
	})
}
