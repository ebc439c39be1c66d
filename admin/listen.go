package admin

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"adit/internal/usersocket"
)

const (
	maxConns      = 256
	headTimeout   = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHead       = 16 << 10
	closeTimeout  = time.Second
	unixPrefix    = "unix:"
	maxSocketPath = 107 // bytes, of Linux
)

// CheckAddress reports what is wrong with an address for Listen.
func CheckAddress(addr string) error {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		if path == "" || len(path) > maxSocketPath {
			return fmt.Errorf("%q: behind unix: goes a path of 1 to %d bytes", addr, maxSocketPath)
		}
		return nil
	}
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%q: want an address with a port, such as 127.0.0.1:9090, or unix:/run/adit/admin.sock", addr)
	}
	return nil
}

// Listen opens an address: one of TCP, or "unix:" and the path of a socket,
// which only the user of this process may then use. A socket that nobody
// listens on any more is replaced.
func Listen(addr string) (net.Listener, error) {
	if err := CheckAddress(addr); err != nil {
		return nil, fmt.Errorf("admin address %w", err)
	}
	path, ok := strings.CutPrefix(addr, unixPrefix)
	if !ok {
		return net.Listen("tcp", addr)
	}
	ln, err := usersocket.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("admin address: %w", err)
	}
	return ln, nil
}

// Public reports whether others than those on this machine may reach ln.
func Public(ln net.Listener) bool {
	a, ok := ln.Addr().(*net.TCPAddr)
	if !ok {
		return false
	}
	addr, ok := netip.AddrFromSlice(a.IP)
	return !ok || !addr.Unmap().IsLoopback()
}

// Serve serves h on ln until ctx ends, and closes ln. It returns nil then, and
// why ln failed otherwise. log may be nil.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, logger *slog.Logger) error {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headTimeout,
		ReadTimeout:       bodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHead,
		ErrorLog:          log.New(logWriter{logger}, "", 0),
		BaseContext:       func(net.Listener) context.Context { return ctx }, // a profile ends with it
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(&limited{Listener: ln}) }()
	select {
	case err := <-served:
		s.Close()
		return err
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if s.Shutdown(closing) != nil {
		s.Close()
	}
	<-served
	return nil
}

// A logWriter takes what net/http has to say.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Debug("admin server", "err", strings.TrimSpace(string(p)))
	return len(p), nil
}

// limited closes conns that are more than maxConns at a time.
type limited struct {
	net.Listener
	conns atomic.Int32
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.conns.Add(1) <= maxConns {
			return &limitedConn{Conn: c, leave: sync.OnceFunc(func() { l.conns.Add(-1) })}, nil
		}
		l.conns.Add(-1)
		c.Close()
	}
}

type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
