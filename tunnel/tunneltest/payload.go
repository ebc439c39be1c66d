package tunneltest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"

	"adit/tunnel"
)

// generator yields bytes that depend on seed alone.
func generator(seed uint64) *rand.ChaCha8 {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// send writes the first n bytes of seed's payload to c. Odd seeds use c's
// ReadFrom, if it has one.
func send(c net.Conn, seed uint64, n int64) error {
	var w io.Writer = c
	if seed%2 == 0 {
		w = struct{ io.Writer }{c}
	}
	sent, err := io.Copy(w, io.LimitReader(generator(seed), n))
	if err != nil {
		return fmt.Errorf("send byte %d of %d: %w", sent, n, err)
	}
	return nil
}

// receive reads n bytes from c, or all until its end if toEnd is set, and
// compares them to seed's payload. Odd seeds use c's WriteTo, if it has one
// and there is an end.
func receive(c net.Conn, seed uint64, n int64, toEnd bool) error {
	v := &verifier{want: generator(seed)}
	var err error
	switch {
	case !toEnd:
		_, err = io.CopyN(v, struct{ io.Reader }{c}, n)
	case seed%2 == 0:
		_, err = io.Copy(v, struct{ io.Reader }{c})
	default:
		_, err = io.Copy(v, c)
	}
	if err != nil {
		return fmt.Errorf("receive byte %d of %d: %w", v.seen, n, err)
	}
	if v.seen != n {
		return fmt.Errorf("received %d bytes, want %d", v.seen, n)
	}
	return nil
}

// A verifier is a Writer that takes nothing but the bytes that it wants.
type verifier struct {
	want *rand.ChaCha8
	seen int64
	buf  []byte
}

func (v *verifier) Write(p []byte) (int, error) {
	if len(v.buf) < len(p) {
		v.buf = make([]byte, len(p))
	}
	want := v.buf[:len(p)]
	v.want.Read(want)
	if !bytes.Equal(p, want) {
		i := 0
		for p[i] == want[i] {
			i++
		}
		return i, fmt.Errorf("byte %d: got %#02x, want %#02x", v.seen+int64(i), p[i], want[i])
	}
	v.seen += int64(len(p))
	return len(p), nil
}

// endWriting ends c's writing side if the dialect can express it, and reports
// whether it can.
func endWriting(c net.Conn) (bool, error) {
	hc, ok := c.(tunnel.HalfCloser)
	if !ok {
		return false, nil
	}
	return true, hc.CloseWrite()
}

// exchange sends and receives at the same time. If the stream half-closes,
// both directions go to their end.
func exchange(c net.Conn, outSeed uint64, out int64, inSeed uint64, in int64) error {
	_, toEnd := c.(tunnel.HalfCloser)
	sent := make(chan error, 1)
	go func() {
		err := send(c, outSeed, out)
		if err == nil {
			_, err = endWriting(c)
		}
		sent <- err
	}()
	err := receive(c, inSeed, in, toEnd)
	if err != nil {
		c.Close() // unblocks send
	}
	if serr := <-sent; err == nil {
		err = serr
	}
	return err
}
