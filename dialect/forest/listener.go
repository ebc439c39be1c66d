package forest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"adit/internal/lastcall"
	"adit/internal/pacing"
)

// A listener takes the visitors of one address and port.
type listener struct {
	key     listenKey
	ln      net.Listener            // nil at a shared port
	entries atomic.Pointer[[]Entry] // in the order of the set
	closing chan struct{}           // closed by close
	ended   chan struct{}           // closed when no visitor is taken any more
	once    sync.Once
}

// A listenError is an address that cannot be listened at.
type listenError struct {
	key listenKey
	err error
}

func (e *listenError) Error() string {
	_, address := e.key.network()
	return fmt.Sprintf("listen at %s: %v", address, e.err)
}
func (e *listenError) Unwrap() error { return e.err }

func listenAt(key listenKey) (*listener, error) {
	network, address := key.network()
	if key.port < 0 || key.port > 65535 {
		return nil, &listenError{key, fmt.Errorf("port %d is not from 0 to 65535", key.port)}
	}
	lc := net.ListenConfig{Control: pacing.Control}
	lc.SetMultipathTCP(false) // lastcall needs plain TCP
	ln, err := lc.Listen(context.Background(), network, address)
	if err != nil {
		return nil, &listenError{key, err}
	}
	return &listener{key: key, ln: ln, closing: make(chan struct{}), ended: make(chan struct{})}, nil
}

// serve takes visitors until close.
func (s *Server) serve(ctx context.Context, l *listener) {
	defer close(l.ended)
	defer l.ln.Close()
	stop := context.AfterFunc(ctx, func() { l.ln.Close() })
	defer stop()
	pause := 5 * time.Millisecond
	for {
		conn, err := l.ln.Accept()
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
			if s.visitors.Add(1) > s.opts.MaxVisitors {
				s.visitors.Add(-1)
				conn.Close()
				continue
			}
			if !s.wg.Go(func() {
				defer s.visitors.Add(-1)
				s.visit(ctx, l, conn)
			}) {
				s.visitors.Add(-1)
				conn.Close()
			}
			continue
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			return
		}
		// Such as too many open files: it passes.
		s.log.Printf("accept at %s: %v; again in %v", l.ln.Addr(), err, pause)
		select {
		case <-l.closing:
			return
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Second)
	}
}

// close ends a listener that is served, without losing a visitor who has
// connected.
func (l *listener) close() {
	if l.ln == nil {
		return
	}
	l.once.Do(func() {
		close(l.closing)
		lastcall.Begin(l.ln)
	})
	<-l.ended
}

// abort ends a listener that is not served yet.
func (l *listener) abort() {
	if l.ln != nil {
		l.ln.Close()
	}
}

func portTaken(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
