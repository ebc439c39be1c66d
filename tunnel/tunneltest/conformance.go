package tunneltest

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"adit/tunnel"
)

// patience is how long one case may take before it counts as hung.
const patience = 60 * time.Second

// Run checks that both ends of a session keep what package tunnel promises.
// newPair returns the server's and the agent's end of a new session; t cleans
// them up. Run calls it once for each of its subtests, which run one after the
// other.
//
// What only some dialects can do is checked if it is there: EarlyOpener on the
// tunnel, Incoming on the listener's conns, HalfCloser and Resetter on streams.
// lacks names what cannot be told in this way.
func Run(t *testing.T, newPair func(t *testing.T) (tunnel.Tunnel, net.Listener), lacks ...Lack) {
	cases := []struct {
		name string
		run  func(p *pair)
	}{
		{"open", testOpen},
		{"open early", testOpenEarly},
		{"open early, agent speaks first", testOpenEarlySilent},
		{"info", testInfo},
		{"accept by writing", testAcceptByWriting},
		{"refuse", testRefuse},
		{"refuse early", testRefuseEarly},
		{"cancel while opening", testCancelWhileOpening},
		{"cancel before and after opening", testCancelAround},
		{"close unanswered", testCloseUnanswered},
		{"half-close", testHalfClose},
		{"bytes before the end arrive", testBytesBeforeEnd},
		{"zero-length write", testZeroWrite},
		{"far side gone", testFarSideGone},
		{"reset", testReset},
		{"reset unblocks a writer", testResetUnblocks},
		{"deadlines", testDeadlines},
		{"stall", testStall},
		{"flood", testFlood},
		{"churn", testChurn},
		{"close tunnel", testCloseTunnel},
		{"close tunnel while opening", testCloseWhileOpening},
		{"close tunnel while writing", testCloseWhileWriting},
		{"close listener", testCloseListener},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if slices.Contains(lacks, Lack(c.name)) {
				t.Skip("the dialect has no way to do it")
			}
			labelGoroutine(t)
			c.run(start(t, newPair))
		})
	}

	for _, side := range []string{"server", "agent"} {
		t.Run("nettest, "+side, func(t *testing.T) {
			p := start(t, newPair)
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				near, far, err := p.dial()
				if err != nil {
					return nil, nil, nil, err
				}
				stop = func() { near.Close(); far.Close() }
				if side == "agent" {
					near, far = far, near
				}
				return near, far, stop, nil
			})
		})
	}
}

// A Lack is an ability that a dialect does not have though its types do.
type Lack string

// NoInfo says that agents are not told what a stream is for.
const NoInfo Lack = "info"

// A pair is both ends of the session that a case is about.
type pair struct {
	*testing.T
	tun tunnel.Tunnel
	ln  net.Listener
	ctx context.Context // ends when patience does
}

func start(t *testing.T, newPair func(t *testing.T) (tunnel.Tunnel, net.Listener)) *pair {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	tun, ln := newPair(t)
	if tun == nil || ln == nil {
		t.Fatalf("newPair returned tunnel %v, listener %v; want both", tun, ln)
	}
	return &pair{T: t, tun: tun, ln: ln, ctx: ctx}
}

// An arrival is what Accept returned.
type arrival struct {
	conn net.Conn
	err  error
}

// arrive accepts one stream without answering it.
func (p *pair) arrive() <-chan arrival {
	ch := make(chan arrival, 1)
	go func() {
		conn, err := p.ln.Accept()
		if err == nil {
			conn.SetDeadline(time.Now().Add(patience))
		}
		ch <- arrival{conn, err}
	}()
	return ch
}

// answer accepts an Incoming; other conns need no answer.
func answer(c net.Conn) error {
	if in, ok := c.(tunnel.Incoming); ok {
		return in.Accept()
	}
	return nil
}

// await receives from ch, and fails the test if nothing comes.
func await[T any](p *pair, ch <-chan T, what string) T {
	p.Helper()
	select {
	case v := <-ch:
		return v
	case <-p.ctx.Done():
		p.Fatalf("%s: nothing after %v", what, patience)
		panic("unreachable")
	}
}

// incoming waits for a stream that the agent has still to answer, and skips
// the test if the dialect has no answers. The conn is closed with the test.
func (p *pair) incoming(ch <-chan arrival) tunnel.Incoming {
	p.Helper()
	a := await(p, ch, "Accept")
	if a.err != nil {
		p.Fatalf("Accept: %v", a.err)
	}
	p.Cleanup(func() { a.conn.Close() })
	in, ok := a.conn.(tunnel.Incoming)
	if !ok {
		p.Skip("the listener's conns are no tunnel.Incoming")
	}
	return in
}

// dial opens a stream and has the agent accept it.
func (p *pair) dial() (near, far net.Conn, err error) {
	ch := make(chan arrival, 1)
	go func() {
		conn, err := p.ln.Accept()
		if err == nil {
			err = answer(conn)
		}
		ch <- arrival{conn, err}
	}()
	near, err = p.tun.OpenStream(p.ctx, tunnel.StreamInfo{Service: "test"})
	if err != nil {
		return nil, nil, err
	}
	select {
	case a := <-ch:
		return near, a.conn, a.err
	case <-p.ctx.Done():
		return nil, nil, p.ctx.Err()
	}
}

// open is dial for a test: it fails the test on error, bounds all that happens
// on the stream, and closes both ends with the test.
func (p *pair) open() (near, far net.Conn) {
	p.Helper()
	near, far, err := p.dial()
	if err != nil {
		p.Fatalf("open stream: %v", err)
	}
	for _, c := range []net.Conn{near, far} {
		c.SetDeadline(time.Now().Add(patience))
		p.Cleanup(func() { c.Close() })
	}
	return near, far
}

// early is the tunnel as an EarlyOpener; without, the test is skipped.
func (p *pair) early() tunnel.EarlyOpener {
	p.Helper()
	eo, ok := p.tun.(tunnel.EarlyOpener)
	if !ok {
		p.Skip("the tunnel is no tunnel.EarlyOpener")
	}
	return eo
}

// bothWays runs f as a subtest for a stream's two directions.
func (p *pair) bothWays(f func(p *pair, from, to net.Conn)) {
	for _, name := range []string{"server to agent", "agent to server"} {
		p.Run(name, func(t *testing.T) {
			sub := &pair{T: t, tun: p.tun, ln: p.ln, ctx: p.ctx}
			near, far := sub.open()
			if name == "agent to server" {
				near, far = far, near
			}
			f(sub, near, far)
		})
	}
}
