package forest

import (
	"io"
	"net"
	"testing"
	"time"

	"adit/tunnel"
)

// TestReset ends a stream with an error, which has no code on this wire.
func TestReset(t *testing.T) {
	t.Parallel()
	for _, fromServer := range []bool{true, false} {
		tun, l := newPair(t)
		far := make(chan net.Conn, 1)
		go func() {
			c, err := l.Accept()
			if err == nil {
				c.(tunnel.Incoming).Accept()
				far <- c
			}
		}()
		near, err := tun.OpenStream(t.Context(), tunnel.StreamInfo{Service: "x"})
		if err != nil {
			t.Fatal(err)
		}
		from, to := near, <-far
		if !fromServer {
			from, to = to, from
		}
		from.(tunnel.Resetter).Reset(tunnel.ResetUpstream, "")
		to.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := to.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("from server %v: Read: got %v, want an error", fromServer, err)
		}
		if _, err := to.Write([]byte("x")); err == nil {
			t.Errorf("from server %v: Write: got no error", fromServer)
		}
		to.Close()
		// The answering reset has removed what was left here.
		sess := tun.(*session)
		for end := time.Now().Add(20 * time.Second); sess.mux.NumStreams() > 1; {
			if time.Now().After(end) {
				t.Fatalf("from server %v: got %d streams, want the control stream alone", fromServer, sess.mux.NumStreams())
			}
			time.Sleep(time.Millisecond)
		}
	}
}
