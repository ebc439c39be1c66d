package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// upstream serves h on loopback and returns its address.
func upstream(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.Listener.Addr().String()
}

// copyPaced copies r to w at so many bytes per second until r ends, or the
// visitor of req has gone.
func copyPaced(w io.Writer, r io.Reader, bytesPerSecond int64, req *http.Request) error {
	const step = 64 << 10
	tick := time.NewTicker(time.Second * step / time.Duration(bytesPerSecond))
	defer tick.Stop()
	for {
		if _, err := io.CopyN(w, r, step); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-req.Context().Done():
			return req.Context().Err()
		}
	}
}
