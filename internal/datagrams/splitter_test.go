package datagrams

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"adit/internal/testdatagrams"
)

// onStream returns datagrams as they are on a stream.
func onStream(datagrams ...[]byte) (b []byte) {
	for _, d := range datagrams {
		b = appendDatagram(b, d)
	}
	return b
}

func filled(i, n int) []byte { return bytes.Repeat([]byte{byte(i)}, n) }

// However the bytes of a stream are cut, and however few datagrams are taken at
// a time, each arrives once and whole.
func TestSplitter(t *testing.T) {
	t.Parallel()
	lists := map[string][]int{
		"one":         {5},
		"empty":       {0},
		"empty ones":  {0, 0, 1, 0},
		"the largest": {65507, MaxLen, 0, MaxLen},
		"mixed":       {1400, 0, 1, 1400, 1400, 7, 30000, 2},
		"many":        slices.Repeat([]int{3}, 300),
	}
	for name, sizes := range lists {
		for _, cut := range []int{1, 2, 3, 7, 1402, 5000, 1 << 20} {
			for _, most := range []int{0, 1, 5, 1000} { // that are taken without waiting
				t.Run(fmt.Sprintf("%s cut at %d, %d at a time", name, cut, most), func(t *testing.T) {
					t.Parallel()
					var want, got [][]byte
					for i, n := range sizes {
						want = append(want, filled(i, n))
					}
					s := splitter{canTry: most > 0, emit: func(list [][]byte, wait bool) (int, error) {
						n := len(list)
						if !wait {
							n = rand.IntN(min(n, most) + 1)
						}
						for _, b := range list[:n] {
							got = append(got, bytes.Clone(b))
						}
						return n, nil
					}}
					for rest := onStream(want...); len(rest) > 0; {
						piece := rest[:min(cut, len(rest))]
						n, err := s.TryWrite(piece)
						if err != nil || n > len(piece) {
							t.Fatalf("TryWrite = %d, %v", n, err)
						}
						if n < len(piece) { // it goes on with the rest, and what comes behind
							if m, err := s.Write(piece[n:]); err != nil || m != len(piece)-n {
								t.Fatalf("Write = %d, %v; want %d", m, err, len(piece)-n)
							}
						}
						rest = rest[len(piece):]
					}
					if !s.whole() || s.buf != nil {
						t.Errorf("it waits for more, or holds memory, behind the last one")
					}
					if len(got) != len(want) {
						t.Fatalf("got %d datagrams, want %d", len(got), len(want))
					}
					for i := range want {
						if !bytes.Equal(got[i], want[i]) {
							t.Errorf("datagram %d: got %d bytes, want %d", i, len(got[i]), len(want[i]))
						}
					}
				})
			}
		}
	}
}

func TestSplitterDrains(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, tt := range []struct {
		name   string
		stream []byte
		fail   error // of emit
		want   error
		n      int
	}{
		{"nothing", nil, nil, io.EOF, 0},
		{"some", onStream([]byte("abc"), nil, []byte("d")), nil, io.EOF, 3},
		{"half a head", append(onStream([]byte("abc")), 0), nil, io.ErrUnexpectedEOF, 1},
		{"a head alone", append(onStream([]byte("abc")), 0, 1), nil, io.ErrUnexpectedEOF, 1},
		{"half a datagram", append(onStream([]byte("abc")), 0, 2, 1), nil, io.ErrUnexpectedEOF, 1},
		{"nobody to take them", onStream([]byte("abc"), []byte("d")), broken, broken, 0},
	} {
		for _, writes := range []bool{false, true} {
			n := 0
			s := splitter{emit: func(list [][]byte, _ bool) (int, error) {
				if tt.fail != nil {
					return 0, tt.fail
				}
				n += len(list)
				return len(list), nil
			}}
			var r io.Reader = bytes.NewReader(tt.stream) // which has WriteTo
			if !writes {
				r = struct{ io.Reader }{r}
			}
			if err := s.drain(r); err != tt.want || n != tt.n {
				t.Errorf("%s: got %d datagrams and %v, want %d and %v", tt.name, n, err, tt.n, tt.want)
			}
			if s.buf != nil {
				t.Errorf("%s: it holds memory at the end", tt.name)
			}
		}
	}
}

// FuzzSplitter has bytes cut anywhere come out as whoever reads them one by one gets them.
func FuzzSplitter(f *testing.F) {
	f.Add([]byte("\x00\x03abc\x00\x00\x00\x01x"), uint64(1))
	f.Add([]byte("\x00"), uint64(2))
	f.Add([]byte("\xff\xffshort"), uint64(3))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var got []byte
		s := splitter{canTry: true, emit: func(list [][]byte, wait bool) (int, error) {
			n := len(list)
			if !wait {
				n = rng.IntN(n + 1)
			}
			got = append(got, onStream(list[:n]...)...)
			return n, nil
		}}
		defer s.release()
		for rest := b; len(rest) > 0; {
			piece := rest[:1+rng.IntN(len(rest))]
			n, err := s.TryWrite(piece)
			if err != nil {
				t.Fatal(err)
			}
			if m, err := s.Write(piece[n:]); err != nil || n+m != len(piece) {
				t.Fatalf("Write = %d, %v; want %d", m, err, len(piece)-n)
			}
			rest = rest[len(piece):]
		}
		r := bytes.NewReader(b)
		var want []byte
		for {
			d, err := testdatagrams.Read(r)
			if err != nil {
				if whole := err == io.EOF; whole != s.whole() {
					t.Errorf("whole = %t, want %t", s.whole(), whole)
				}
				break
			}
			want = appendDatagram(want, d)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("got %x, want %x", got, want)
		}
	})
}
