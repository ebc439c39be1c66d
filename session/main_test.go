package session_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"adit/internal/pipe"
	"adit/internal/testtcp"
	"adit/session"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if all, unused := pipe.Made(); code == 0 && all != unused {
			fmt.Fprintf(os.Stderr, "%d of %d pipes were not put back\n", all-unused, all)
			code = 1
		}
		os.Exit(code)
	}))
}

// tcpPair returns both ends of a conn over loopback.
func tcpPair(t testing.TB) (a, b net.Conn) { return testtcp.Pair(t) }

func pipePair(testing.TB) (a, b net.Conn) { return net.Pipe() }

// sessions is both sides of one session.
type sessions struct {
	dialler, listener *session.Session
	acceptor          *session.Acceptor
}

// newSessions starts a session on a pair of conns; t closes it.
func newSessions(t testing.TB, a, b net.Conn, dopts, lopts *session.Options) *sessions {
	t.Helper()
	p := &sessions{acceptor: session.NewAcceptor(lopts)}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		var err error
		p.listener, _, err = p.acceptor.Accept(ctx, b, nil, nil)
		done <- err
	}()
	var err error
	p.dialler, err = session.Dial(ctx, a, dopts)
	if lerr := <-done; lerr != nil || err != nil {
		t.Fatalf("start session: dialler %v, listener %v", err, lerr)
	}
	t.Cleanup(func() {
		p.dialler.Close()
		p.listener.Close()
	})
	return p
}

// resume gives the session a new carrier.
func (p *sessions) resume(ctx context.Context, a, b net.Conn) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.acceptor.Accept(ctx, b, nil, nil)
	}()
	err := p.dialler.Resume(ctx, a)
	<-done
	return err
}

// open opens a stream from the listener's side, as a server does, and returns
// it with the other side's end.
func (p *sessions) open(t testing.TB, meta string) (local, remote *session.Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	local, err := p.listener.Open([]byte(meta))
	if err != nil {
		t.Fatal(err)
	}
	acc := make(chan error, 1)
	go func() { acc <- local.WaitAccepted(ctx) }()
	remote, err = p.dialler.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Accepted(); err != nil {
		t.Fatal(err)
	}
	if err := <-acc; err != nil {
		t.Fatal(err)
	}
	return local, remote
}
