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
	"sync/atomic"
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

	draining atomic.Bool // connections end with the answer that is due

	mu      sync.Mutex // guards the fields below
	conns   map[net.Conn]*caller
	gone    chan struct{} // closed when there are none left, if draining
	over    bool
	callers sync.WaitGroup
}

// Serve serves l until ctx ends or l fails. When ctx ends it takes no more
// connections, and lets requests finish for Options.Grace. It closes l and all
// tunnels.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	f := &front{s: s, given: make(chan net.Conn), done: make(chan struct{}), conns: make(map[net.Conn]*caller)}
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
	if ctx.Err() != nil && s.opts.Grace > 0 {
		f.drain(s.opts.Grace)
	} else {
		f.end()
	}
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
	c := newCaller(f, conn)
	f.conns[conn] = c
	f.callers.Go(func() {
		given := c.serve()
		f.mu.Lock()
		delete(f.conns, conn)
		if f.draining.Load() && len(f.conns) == 0 {
			close(f.gone)
		}
		f.mu.Unlock()
		if !given {
			conn.Close()
		}
	})
}

// drain closes the connections on which nothing is to be answered, the others as
// soon as that is so, and returns then or after grace. No more come. Clients stay
// connected meanwhile; requests that have become something else are not waited
// for.
func (f *front) drain(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	f.inner.SetKeepAlivesEnabled(false)
	f.mu.Lock()
	f.draining.Store(true)
	f.gone = make(chan struct{})
	if len(f.conns) == 0 {
		close(f.gone)
	}
	for conn, c := range f.conns {
		if c.state.CompareAndSwap(callerIdles, callerLeaves) {
			conn.Close()
		}
	}
	f.mu.Unlock()
	select {
	case <-f.gone:
	case <-ctx.Done():
	}
	f.end()
	if f.inner.Shutdown(ctx); ctx.Err() != nil {
		f.s.opts.Log.Warn("requests are not answered: the server ends", "after", grace)
	}
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
