// Package testhello tries what the doors for TLS do with first messages of all
// kinds, so that all doors do the same.
//
//	testhello.Run(t, dial, "www.example.com") // whose upstream sends back what it gets
package testhello

import (
	"bytes"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"adit/internal/clienthello"
)

const patience = 20 * time.Second

// Run comes to a door with one message after another. dial connects to it. It
// knows name alone, whose upstream sends back all that it gets, and has no
// certificate for others.
func Run(t *testing.T, dial func() net.Conn, name string) {
	whole := message(sni(name))
	long := message(sni(name), extension(0x4a4a, make([]byte, 15<<10)))
	for _, tt := range []struct {
		name   string
		pieces [][]byte
		alert  byte // 0 means that the upstream gets the bytes as they are
	}{
		{"one packet", [][]byte{whole}, 0},
		{"byte by byte", slices.Collect(slices.Chunk(whole, 1)), 0},
		{"many records", [][]byte{records(whole, 3)}, 0},
		{"many records, each a packet", slices.Collect(slices.Chunk(records(whole, 40), 45)), 0},
		{"long", slices.Collect(slices.Chunk(long, 1400)), 0},
		{"more behind it", [][]byte{slices.Concat(whole, []byte("early"))}, 0},
		{"upper case", [][]byte{message(sni("WWW.Example.COM"))}, 0},
		{"encrypted one within, outer name known", [][]byte{message(sni(name), ech)}, 0},

		{"encrypted one within, outer name unknown", [][]byte{message(sni("outer.example.net"), ech)}, clienthello.AlertUnrecognizedName},
		{"encrypted one within, no outer name", [][]byte{message(ech)}, clienthello.AlertUnrecognizedName},
		{"unknown name", [][]byte{message(sni("other.example.net"))}, clienthello.AlertUnrecognizedName},
		{"no name", [][]byte{message()}, clienthello.AlertUnrecognizedName},
		{"address for a name", [][]byte{message(sni("192.0.2.1"))}, clienthello.AlertUnrecognizedName},
		{"oversized", [][]byte{{22, 3, 1, 0x40, 0, 1, 0, 0x40, 0}}, clienthello.AlertRecordOverflow},
		{"oversized record", [][]byte{{22, 3, 1, 0x40, 1}}, clienthello.AlertRecordOverflow},
		{"too many records", [][]byte{records(message(sni(name), extension(0x4a4a, make([]byte, 300))), 1)}, clienthello.AlertRecordOverflow},
		{"two names", [][]byte{message(sni(name, "other.example.net"))}, clienthello.AlertIllegalParameter},
		{"what cannot be a name", [][]byte{message(sni("a b"))}, clienthello.AlertIllegalParameter},
		{"malformed", [][]byte{message([]byte{0, 0, 0})}, clienthello.AlertDecodeError},
		{"another message first", [][]byte{{22, 3, 1, 0, 4, 2, 0, 0, 0}}, clienthello.AlertUnexpectedMessage},
		{"empty record", [][]byte{{22, 3, 1, 0, 0}}, clienthello.AlertUnexpectedMessage},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := dial()
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			for _, p := range tt.pieces { // TCP_NODELAY is Go's default: each is a packet
				if _, err := c.Write(p); err != nil {
					t.Fatal(err)
				}
			}
			want := slices.Concat(tt.pieces...)
			if tt.alert != 0 {
				want = clienthello.AppendAlert(nil, tt.alert)
			}
			got := make([]byte, len(want))
			if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %x, %v, want %x", got[:n], err, want)
			}
			if tt.alert == 0 {
				return
			}
			if n, err := c.Read(got); err != io.EOF {
				t.Errorf("after the alert: got %d bytes, %v, want the end", n, err)
			}
		})
	}
}

// ech is what says that there is another, encrypted message (RFC 9849).
var ech = extension(0xfe0d, append([]byte{0, 0, 1, 0, 1, 7, 0, 32}, make([]byte, 34)...))

// message builds a ClientHello, in as few records as it takes.
func message(extensions ...[]byte) []byte {
	body := slices.Concat([]byte{3, 3}, make([]byte, 32), []byte{0, 0, 2, 0x13, 1, 1, 0}, length16(slices.Concat(extensions...)))
	msg := append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	return spread(msg, 1<<14)
}

// records spreads a message, which is in one record, over records of n bytes.
func records(b []byte, n int) []byte { return spread(b[5:], n) }

func spread(msg []byte, n int) (out []byte) {
	for part := range slices.Chunk(msg, n) {
		out = slices.Concat(out, []byte{22, 3, 1, byte(len(part) >> 8), byte(len(part))}, part)
	}
	return out
}

func length16(b []byte) []byte { return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...) }

func extension(kind uint16, body []byte) []byte {
	return append([]byte{byte(kind >> 8), byte(kind)}, length16(body)...)
}

// sni is an extension with names of type host_name.
func sni(names ...string) []byte {
	var list []byte
	for _, n := range names {
		list = append(append(list, 0), length16([]byte(n))...)
	}
	return extension(0, length16(list))
}
