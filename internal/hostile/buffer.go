package hostile

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"testing"
)

// NewBuffer starts a device that passes on an answer when it has size bytes of
// it, or all; if size is 0, only then. It knows no WebSockets either.
func NewBuffer(t testing.TB, server string, size int) (addr string) {
	t.Helper()
	return reverse(t, server, stripped, func(resp *http.Response) error {
		if size == 0 {
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			resp.Body.Close()
			resp.Body = io.NopCloser(bytes.NewReader(b))
			return nil
		}
		r := bufio.NewReaderSize(resp.Body, size)
		r.Peek(size)
		resp.Body = &held{Closer: resp.Body, r: r}
		return nil
	})
}

// A held is a body that is passed on in large pieces.
type held struct {
	io.Closer
	r     *bufio.Reader
	ready []byte
}

func (h *held) Read(p []byte) (int, error) {
	if len(h.ready) > 0 {
		n := copy(p, h.ready)
		h.ready = h.ready[n:]
		return n, nil
	}
	_, err := h.r.Peek(h.r.Size())
	n := h.r.Buffered()
	if n == 0 {
		if err == bufio.ErrBufferFull || err == nil {
			err = io.EOF
		}
		return 0, err
	}
	h.ready, _ = h.r.Peek(n)
	h.ready = append([]byte(nil), h.ready...)
	h.r.Discard(n)
	return h.Read(p)
}
