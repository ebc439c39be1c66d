package relay_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"

	"adit/internal/memnet"
	"adit/internal/relay"
)

// A resetConn is a socket whose reset shows in the next write: an error of a
// socket is told once, and whoever reads afterwards finds an end.
type resetConn struct {
	net.Conn
	told chan struct{} // the read may return
}

func (c *resetConn) Write([]byte) (int, error) {
	return 0, &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.ECONNRESET)}
}

func (c *resetConn) Read([]byte) (int, error) {
	<-c.told
	return 0, io.EOF
}

// TestResetThatAWriteWasTold sees that nobody takes what came before a reset for
// all.
func TestResetThatAWriteWasTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		visitor, a := memnet.Pipe()
		far, below := memnet.Pipe()
		defer far.Close()
		b := &resetConn{below, make(chan struct{})}
		aborted := make(chan net.Conn, 2)
		done := make(chan error, 1)
		go func() {
			_, err := relay.Relay(a, b, relay.Options{Abort: func(c net.Conn, _ error) {
				aborted <- c
				c.Close()
			}})
			done <- err
		}()
		io.WriteString(visitor, "something")
		synctest.Wait()
		close(b.told)
		if err := <-done; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Relay: got %v, want %v", err, syscall.ECONNRESET)
		}
		if len(aborted) != 2 {
			t.Errorf("%d conns were aborted, want both: the visitor must not see a clean end", len(aborted))
		}
		visitor.Close()
	})
}
