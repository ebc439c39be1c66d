package datagrams_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"adit/internal/datagrams"
	"adit/internal/testdatagrams"
)

// toldConn is a conn to whose reader the system tells of what was sent before.
type toldConn struct {
	net.Conn
	tell []error
}

func (c *toldConn) Read(b []byte) (int, error) {
	if len(c.tell) > 0 {
		err := c.tell[0]
		c.tell = c.tell[1:]
		return 0, &net.OpError{Op: "read", Net: "udp", Err: err}
	}
	return c.Conn.Read(b)
}

// A router that has no way for one datagram, such as a long one, does not end
// what carries others.
func TestRelayGoesOnWhenTheNetworkRefuses(t *testing.T) {
	t.Parallel()
	socket, far := net.Pipe()
	near, stream := net.Pipe()
	near.SetDeadline(time.Now().Add(patience))
	ended := make(chan error, 1)
	go func() {
		_, _, err := datagrams.Relay(stream, &toldConn{socket, []error{syscall.EMSGSIZE, syscall.EHOSTUNREACH, syscall.ENETUNREACH}}, patience, abort)
		ended <- err
	}()
	go far.Write([]byte("here"))
	if b, err := testdatagrams.Read(near); err != nil || string(b) != "here" {
		t.Errorf("got %q, %v; want what came behind what was refused", b, err)
	}
	near.Close()
	far.Close()
	if err := <-ended; err != nil {
		t.Errorf("Relay: %v", err)
	}
}
