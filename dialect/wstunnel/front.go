package wstunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"adit/internal/replay"
)

const (
	// headTime bounds the time from the first byte of a head to its end.
	headTime = 30 * time.Second

	// callerIdle is how long a connection may wait for its next request.
	callerIdle = 2 * time.Minute

	// maxCallerHead bounds the head of a request, in bytes, as the original
	// does.
	maxCallerHead = http.DefaultMaxHeaderBytes
)

// A front takes in the connections of callers and clients. It reads plain
// requests of callers itself, and leaves a connection to package net/http, for
// good, with the first that is not.
type front struct {
	s     *Server
	inner *http.Server
	given chan net.Conn
	done  chan struct{} // closed when no more are given

	mu      sync.Mutex // guards the fields below
	conns   map[net.Conn]struct{}
	over    bool
	callers sync.WaitGroup
}

// Serve serves l until ctx ends or l fails, and closes l and all tunnels.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	f := &front{s: s, given: make(chan net.Conn), done: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	f.inner = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headTime,
		IdleTimeout:       callerIdle,
		MaxHeaderBytes:    maxCallerHead,
		ErrorLog:          log.New(io.Discard, "", 0), // callers' faults
	}
	f.callers.Go(func() { f.inner.Serve((*givenListener)(f)) })
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	err := f.accept(ctx, l)
	l.Close()
	f.end()
	f.inner.Close()
	s.Close()
	f.callers.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// accept takes connections until l fails for good.
func (f *front) accept(ctx context.Context, l net.Listener) error {
	var delay time.Duration
	for {
		conn, err := l.Accept()
		var temporary interface{ Temporary() bool }
		switch {
		case err == nil:
			delay = 0
			f.take(conn)
			continue
		case ctx.Err() != nil, !errors.As(err, &temporary) || !temporary.Temporary():
			return err
		}
		// Out of descriptors, most likely: the same back-off as net/http's.
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		f.s.opts.Log.Error("accept", "err", err)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}

// take serves conn in a goroutine.
func (f *front) take(conn net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		conn.Close()
		return
	}
	f.conns[conn] = struct{}{}
	f.callers.Go(func() {
		c := newCaller(f, conn)
		given := c.serve()
		f.mu.Lock()
		delete(f.conns, conn)
		f.mu.Unlock()
		if !given {
			conn.Close()
		}
	})
}

// end closes the connections that are here.
func (f *front) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	close(f.done)
	for conn := range f.conns {
		conn.Close()
	}
}

// give leaves conn to package net/http, which reads prefix first. It reports
// false if the front has ended.
func (f *front) give(conn net.Conn, prefix []byte) bool {
	conn.SetReadDeadline(time.Time{})
	select {
	case f.given <- replay.New(conn, bytes.Clone(prefix)):
		return true
	case <-f.done:
		return false
	}
}

// A givenListener is where the connections come from that are given.
type givenListener front

func (l *givenListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.given:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *givenListener) Close() error   { return nil }
func (l *givenListener) Addr() net.Addr { return &net.TCPAddr{} }
