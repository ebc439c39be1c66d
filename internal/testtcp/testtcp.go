// Package testtcp has upstreams and pairs of connections for tests, on
// loopback.
//
//	addr := testtcp.Serve(t, testtcp.Echo)
//	a, b := testtcp.Pair(t)
package testtcp

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Serve listens until the test ends, and serves each conn with f, which has
// returned for all of them by then. The conn is closed after f.
func Serve(t testing.TB, f func(net.Conn)) (addr string) {
	t.Helper()
	var conns sync.WaitGroup
	return take(t, listen(t), func(c net.Conn) {
		conns.Go(func() {
			defer c.Close()
			f(c)
		})
	}, conns.Wait)
}

// ServeInTurn is Serve, but of one conn after the other.
func ServeInTurn(t testing.TB, f func(net.Conn)) (addr string) {
	t.Helper()
	return ServeInTurnOn(t, listen(t), f)
}

// ServeInTurnOn is ServeInTurn at ln, which it closes.
func ServeInTurnOn(t testing.TB, ln net.Listener, f func(net.Conn)) (addr string) {
	return take(t, ln, func(c net.Conn) {
		defer c.Close()
		f(c)
	}, func() {})
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// take calls one with each conn, and end when no more come.
func take(t testing.TB, ln net.Listener, one func(net.Conn), end func()) (addr string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			one(c)
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		end()
	})
	return ln.Addr().String()
}

// Echo sends back what comes, for Serve.
func Echo(c net.Conn) { io.Copy(c, c) }

// Pair returns both ends of a connection, which the test closes at its end.
func Pair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln := listen(t)
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return near.(*net.TCPConn), far.(*net.TCPConn)
}
