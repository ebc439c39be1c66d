package http1

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http/httputil"
	"strings"
	"testing"
)

// decode feeds raw in pieces of that size.
func decode(c *ChunkReader, raw []byte, size int) (data, rest []byte, err error) {
	for len(raw) > 0 && !c.Done() {
		piece := raw[:min(size, len(raw))]
		raw = raw[len(piece):]
		for len(piece) > 0 && !c.Done() {
			var d []byte
			if d, piece, err = c.Next(piece); err != nil {
				return data, nil, err
			}
			data = append(data, d...)
		}
		rest = append([]byte(nil), piece...)
	}
	return data, append(rest, raw...), nil
}

func TestChunkReader(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, raw, want, rest, trailer string
		err                            error
	}{
		{name: "plain", raw: "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", want: "hello world"},
		{name: "empty", raw: "0\r\n\r\n"},
		{name: "what follows", raw: "0\r\n\r\nGET", rest: "GET"},
		{name: "upper case and zeros", raw: "00A\r\n0123456789\r\n0000\r\n\r\n", want: "0123456789"},
		{name: "extension", raw: "5;a=\"b;c\"\r\nhello\r\n0;x\r\n\r\n", want: "hello"},
		{name: "space after size", raw: "5  \r\nhello\r\n0\r\n\r\n", want: "hello"},
		{name: "trailer", raw: "0\r\nX-Sum: 1\r\nContent-Length: 5\r\nHost: b\r\nAdit-Error: x\r\nGrpc-Status: 0\r\n\r\n", trailer: "X-Sum=1 Grpc-Status=0 "},
		{name: "plus", raw: "+5\r\nhello\r\n", err: ErrChunkSize},
		{name: "minus", raw: "-5\r\nhello\r\n", err: ErrChunkSize},
		{name: "0x", raw: "0x5\r\nhello\r\n", err: ErrChunkSize},
		{name: "leading space", raw: " 5\r\nhello\r\n", err: ErrChunkSize},
		{name: "empty size", raw: "\r\nhello\r\n", err: ErrChunkSize},
		{name: "no size before extension", raw: ";a\r\nhello\r\n", err: ErrChunkSize},
		{name: "overflow", raw: "10000000000000005\r\nhello\r\n", err: ErrChunkSize},
		{name: "bare LF after size", raw: "5\nhello\r\n", err: ErrChunkSize},
		{name: "bare CR after size", raw: "5\rhello\r\n", err: ErrBareCR},
		{name: "bare LF in extension", raw: "5;a\nhello\r\n", err: ErrChunkExtension},
		{name: "long extension", raw: "5;" + strings.Repeat("a", 2000) + "\r\nhello\r\n", err: ErrChunkExtension},
		{name: "chunk too long", raw: "4\r\nhello\r\n", err: ErrChunkEnd},
		{name: "LF after data", raw: "5\r\nhello\n", err: ErrChunkEnd},
		{name: "CR without LF after data", raw: "5\r\nhello\rx", err: ErrChunkEnd},
		{name: "bare LF in trailer", raw: "0\r\nA: b\n\r\n", err: ErrBareLF},
		{name: "bare LF ends trailer", raw: "0\r\n\n", err: ErrBareLF},
		{name: "bare CR in trailer", raw: "0\r\nA: b\rc\r\n\r\n", err: ErrBareCR},
		{name: "fold in trailer", raw: "0\r\nA: b\r\n c\r\n\r\n", err: ErrFold},
		{name: "large trailer", raw: "0\r\nA: " + strings.Repeat("b", maxTrailer) + "\r\n\r\n", err: ErrTrailerTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 3, len(tt.raw)} {
				var c ChunkReader
				data, rest, err := decode(&c, []byte(tt.raw), size)
				var trailer string
				if err == nil && c.Done() {
					var fields []Field
					fields, err = c.Trailer(nil)
					for _, f := range fields {
						trailer += string(f.Name) + "=" + string(f.Value) + " "
					}
				}
				if err != tt.err {
					t.Fatalf("pieces of %d: got %v, want %v", size, err, tt.err)
				}
				if err != nil {
					continue
				}
				if string(data) != tt.want || string(rest) != tt.rest || trailer != tt.trailer || !c.Done() {
					t.Errorf("pieces of %d: data %q rest %q trailer %q done %v; want %q %q %q true",
						size, data, rest, trailer, c.Done(), tt.want, tt.rest, tt.trailer)
				}
			}
		})
	}
}

func TestAppendChunkHeader(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{1: "1\r\n", 15: "f\r\n", 16: "10\r\n", 65536: "10000\r\n", math.MaxInt: fmt.Sprintf("%x\r\n", math.MaxInt)} {
		if got := AppendChunkHeader(nil, n); string(got) != want || len(got) > MaxChunkHeader {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

// FuzzChunkReader holds the decoder to the one of net/http, for bodies that
// both accept, and to itself however the body is cut.
func FuzzChunkReader(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"), 2)
	f.Add([]byte("5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\nrest"), 3)
	f.Fuzz(func(t *testing.T, raw []byte, size int) {
		var whole, cut ChunkReader
		want, rest, err := decode(&whole, raw, max(len(raw), 1))
		size = 1 + size&15
		got, rest2, err2 := decode(&cut, raw, size)
		if err != err2 || !bytes.Equal(got, want) || err == nil && !bytes.Equal(rest, rest2) {
			t.Fatalf("in pieces of %d: %q %q %v; whole: %q %q %v", size, got, rest2, err2, want, rest, err)
		}
		if err != nil || !whole.Done() {
			return
		}
		whole.Trailer(nil)
		std, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw)))
		if err == nil && !bytes.Equal(std, want) {
			t.Errorf("got %q, net/http sees %q", want, std)
		}
	})
}
