package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
)

// Bodies repeat one pattern whose length is prime, so that a piece which is
// lost, sent twice or out of place shows at its first byte.
const (
	patternLen = 262139
	pieceLen   = 64 << 10
)

var pattern = func() []byte {
	p := make([]byte, patternLen+pieceLen)
	r := rand.NewChaCha8([32]byte{})
	r.Read(p[:patternLen])
	copy(p[patternLen:], p)
	return p
}()

// piece returns up to pieceLen bytes of the body at off.
func piece(off int64, n int) []byte {
	i := int(off % patternLen)
	return pattern[i : i+min(n, pieceLen)]
}

// body returns a reader of a body of size bytes.
func body(size int64) io.Reader { return &bodyReader{left: size} }

type bodyReader struct{ off, left int64 }

func (b *bodyReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n := copy(p, piece(b.off, int(min(b.left, int64(len(p))))))
	b.off += int64(n)
	b.left -= int64(n)
	return n, nil
}

// A checker is a writer that compares what it is given with a body.
type checker struct{ off int64 }

func (c *checker) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		want := piece(c.off, len(rest))
		if !bytes.Equal(rest[:len(want)], want) {
			return 0, fmt.Errorf("wrong bytes in the %d after byte %d", len(want), c.off)
		}
		c.off += int64(len(want))
		rest = rest[len(want):]
	}
	return len(p), nil
}

// checkBody reads r to its end, which must come after size right bytes.
func checkBody(r io.Reader, size int64) error {
	var c checker
	if _, err := io.Copy(&c, r); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", c.off, size, err)
	}
	if c.off != size {
		return fmt.Errorf("got %d bytes, want %d", c.off, size)
	}
	return nil
}
