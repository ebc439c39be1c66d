package wsframe_test

import (
	"bytes"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"adit/internal/wsframe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		b    string
		want error
	}{
		{"reserved bit", "\xc2\x00", wsframe.ErrReserved},
		{"opcode 3", "\x83\x00", wsframe.ErrOpcode},
		{"opcode 11", "\x8b\x00", wsframe.ErrOpcode},
		{"fragmented ping", "\x09\x00", wsframe.ErrControl},
		{"long ping", "\x89\x7e\x00\x7e", wsframe.ErrControl},
		{"two bytes for 125", "\x82\x7e\x00\x7d", wsframe.ErrLength},
		{"eight bytes for 65535", "\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff", wsframe.ErrLength},
		{"negative", "\x82\x7f\x80\x00\x00\x00\x00\x01\x00\x00", wsframe.ErrLength},
	} {
		if h, n, err := wsframe.Parse([]byte(tt.b)); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %+v, %d, %v; want %v", tt.name, h, n, err, tt.want)
		}
	}
}

func TestAppendParse(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 30} {
		for _, masked := range []bool{false, true} {
			want := wsframe.Header{Fin: true, Op: wsframe.Binary, Masked: masked, Size: int64(size)}
			if masked {
				want.Key = 0x12345678
			}
			b := wsframe.Append(nil, want.Op, size, masked, want.Key)
			for cut := range b {
				if h, n, err := wsframe.Parse(b[:cut]); n != 0 || err != nil {
					t.Errorf("%d of %d bytes of a header: got %+v, %d, %v; want nothing yet", cut, len(b), h, n, err)
				}
			}
			if h, n, err := wsframe.Parse(append(b, 1, 2, 3)); h != want || n != len(b) || err != nil {
				t.Errorf("size %d: got %+v, %d, %v; want %+v, %d", size, h, n, err, want, len(b))
			}
		}
	}
}

// The example of RFC 6455, section 1.3.
func TestAccept(t *testing.T) {
	t.Parallel()
	if got, want := wsframe.Accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMask(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 3, 4, 7, 8, 9, 1023, 1024, 1025, 5000} {
		src := make([]byte, n)
		for i := range src {
			src[i] = byte(i)
		}
		const key = 0x44332211
		want := make([]byte, n)
		for i := range want {
			want[i] = src[i] ^ []byte{0x11, 0x22, 0x33, 0x44}[i%4]
		}
		got := make([]byte, n)
		cut := n / 3
		next := wsframe.Mask(got[:cut], src[:cut], key)
		wsframe.Mask(got[cut:], src[cut:], next)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes: masked in two parts they differ from byte by byte", n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("\x82\xfe\x01\x00abcd"))
	f.Add([]byte("\x89\x00"))
	f.Add([]byte("\x02\x7f\x00\x00\x00\x00\x00\x01\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := wsframe.Parse(b)
		switch {
		case err != nil && n != 0, n > len(b), n > wsframe.MaxHeader, n > 0 && h.Size < 0:
			t.Fatalf("%x: got %+v, %d, %v", b, h, n, err)
		case n > 0 && h.Fin:
			if again := wsframe.Append(nil, h.Op, int(h.Size), h.Masked, h.Key); !bytes.Equal(again, b[:n]) {
				t.Fatalf("%x is %+v, which makes %x", b[:n], h, again)
			}
		}
	})
}
