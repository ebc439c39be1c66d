package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// bodyReader hands out an HTTP/1.1 body piece by piece without copying it:
// next, then advance over what was used.
type bodyReader struct {
	br      *bufio.Reader
	left    int64 // of the content length, or of the chunk
	chunked bool
	done    bool
	first   bool
}

// next returns the next piece of the body, nil at its end.
func (b *bodyReader) next() ([]byte, error) {
	if b.done {
		return nil, nil
	}
	if b.left == 0 {
		if !b.chunked {
			b.done = true
			return nil, nil
		}
		if !b.first {
			if err := readCRLF(b.br); err != nil {
				return nil, err
			}
		}
		b.first = false
		line, err := b.br.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if i := bytes.IndexByte(line, ';'); i >= 0 {
			line = line[:i]
		}
		n, ok := parseHex(bytes.TrimSpace(line))
		if !ok {
			return nil, &kindErr{"bad-http", fmt.Sprintf("chunk size %.20q", line)}
		}
		if n == 0 {
			for { // trailers
				t, err := b.br.ReadSlice('\n')
				if err != nil {
					return nil, err
				}
				if len(bytes.TrimRight(t, "\r\n")) == 0 {
					break
				}
			}
			b.done = true
			return nil, nil
		}
		b.left = int64(n)
	}
	p, err := peekSome(b.br, int(min(b.left, 1<<20)))
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	b.left -= int64(len(p))
	return p, nil
}

func (b *bodyReader) advance(p []byte) { b.br.Discard(len(p)) }

// copyTo moves the rest of the body to w.
func (b *bodyReader) copyTo(w io.Writer) error {
	for {
		p, err := b.next()
		if err != nil || p == nil {
			return err
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
		b.advance(p)
	}
}

func readCRLF(br *bufio.Reader) error {
	for i := 0; i < 2; i++ {
		c, err := br.ReadByte()
		if err != nil {
			return err
		}
		if c == '\n' {
			return nil
		}
	}
	return nil
}
