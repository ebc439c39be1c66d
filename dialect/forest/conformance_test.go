package forest

import (
	"context"
	"net"
	"sync"
	"testing"

	"adit/tunnel"
	"adit/tunnel/tunneltest"
)

// An incoming is a stream as the agent gets it.
type incoming struct {
	*asked
	once sync.Once
}

func (c *incoming) Info() tunnel.StreamInfo { return tunnel.StreamInfo{} }

func (c *incoming) Accept() (err error) {
	c.once.Do(func() { err = c.accept() })
	return err
}

func (c *incoming) Refuse(code tunnel.RefuseCode, reason string) (err error) {
	c.once.Do(func() { err = c.refuse(code, reason) })
	c.Close()
	return err
}

func (c *incoming) Write(p []byte) (int, error) {
	if err := c.Accept(); err != nil {
		return 0, err
	}
	return c.asked.Write(p)
}

// A streamListener yields the streams of an agent's session.
type streamListener struct {
	net.Addr
	ch   chan net.Conn
	stop context.CancelFunc
	done chan struct{}
}

func (l *streamListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ch:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *streamListener) Close() error { l.stop(); <-l.done; return nil }

// TestConformance runs the suite of all tunnels on both sides of this package.
func TestConformance(t *testing.T) {
	t.Parallel()
	tunneltest.Run(t, newPair, tunneltest.NoInfo,
		"reset", "reset unblocks a writer") // a reset has no code; see TestReset
}

func newPair(t *testing.T) (tunnel.Tunnel, net.Listener) {
	s, addr := startServer(t, ServerConfig{})
	conn, err := net.Dial("tcp", addr[0])
	if err != nil {
		t.Fatal(err)
	}
	_, changed := s.agents.pick([]string{"a"})
	as, err := connect(t.Context(), conn, headerClientID+": a\r\n")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &listenerOf{streamListener: streamListener{Addr: conn.LocalAddr(), ch: make(chan net.Conn), stop: cancel, done: make(chan struct{})}}
	go func() {
		defer close(l.done)
		as.run(ctx, func(ctx context.Context, r request) {
			gone := make(chan struct{})
			in := &incoming{asked: r.stream}
			var once sync.Once
			r.stream.onClose = func() { once.Do(func() { close(gone) }) }
			select {
			case l.ch <- in:
			case <-ctx.Done():
				return
			}
			select {
			case <-gone:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() { l.Close() })
	<-changed
	sess, _ := s.agents.pick([]string{"a"})
	return sess, l
}

type listenerOf struct{ streamListener }

func (l *listenerOf) Addr() net.Addr { return l.streamListener.Addr }
