package relay

import (
	"io"
	"net"
	"sync"

	"adit/internal/readable"
)

// sizes are those of the buffers, in bytes: a direction starts with the first
// and proves to be bulk by filling its buffer several times in a row.
var sizes = [...]int{16 << 10, 64 << 10, 256 << 10}

// proof is how many full reads in a row earn the next size.
const proof = 4

var pools [len(sizes)]sync.Pool // of *[]byte

func get(class int) *[]byte {
	if b, ok := pools[class].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, sizes[class])
	return &b
}

func put(class int, b *[]byte) { pools[class].Put(b) }

// pump copies from src to dst through a buffer that it borrows when there is
// something to read, if src can tell, and returns the bytes written.
func pump(dst io.Writer, src net.Conn) (int64, error) {
	var wait readable.Waiter
	var from io.Reader = src
	rc, parks := readable.Of(src)
	if parks {
		wait.Init(rc)
		from = &wait
	}
	var total int64
	class, full := 0, 0
	for {
		if parks {
			if err := wait.Wait(); err != nil {
				return total, err
			}
		}
		buf := get(class)
		n, rerr := from.Read(*buf)
		nw, werr := 0, error(nil)
		if n > 0 {
			nw, werr = dst.Write((*buf)[:n])
			total += int64(nw)
		}
		put(class, buf)
		switch {
		case werr != nil:
			return total, &writeError{werr}
		case nw < n:
			return total, &writeError{io.ErrShortWrite}
		case rerr == io.EOF:
			return total, nil
		case rerr != nil:
			return total, rerr
		}

		switch {
		case n == sizes[class]:
			if full++; full >= proof && class < len(sizes)-1 {
				class, full = class+1, 0
			}
		case class > 0 && n <= sizes[class-1]:
			class, full = class-1, 0
		default:
			full = 0
		}
	}
}
