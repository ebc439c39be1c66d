// Package testport finds ports for tests that have to know a port before
// anybody listens on it.
//
//	port := testport.One(t)
package testport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
)

// Ports lie below those that systems give to clients and to listeners on port
// 0, which come and go by the thousand.
const first, end = 10000, 32768

// One returns a port that nobody uses, neither for TCP nor for UDP, on no
// address. No other test that asks this package gets it before t ends, in
// whatever process.
func One(t testing.TB) uint16 {
	t.Helper()
	return Row(t, 1)
}

// Row returns the first of n ports in a row, all of them as One's.
func Row(t testing.TB, n int) uint16 {
	t.Helper()
	for range 500 {
		from := first + rand.IntN(end-first-n+1)
		if leaseRow(t, from, n) {
			return uint16(from)
		}
	}
	t.Fatalf("no %d free ports in a row from %d to %d", n, first, end-1)
	panic("unreachable")
}

// leaseRow leases n ports from the given one on until t ends, if all are free.
func leaseRow(t testing.TB, from, n int) bool {
	held := make([]net.Listener, 0, n)
	release := func() {
		for _, l := range held {
			l.Close()
		}
	}
	for port := from; port < from+n; port++ {
		l, ok := lease(port)
		if ok && l != nil {
			held = append(held, l)
		}
		if !ok || !free(port) {
			release()
			return false
		}
	}
	t.Cleanup(release)
	return true
}

// lease keeps other tests away from a port: by a socket in the abstract name
// space, which ends with its process and is, as ports are, one of the network
// name space. Elsewhere than on Linux there is none, and a port is only likely
// to be free.
func lease(port int) (l net.Listener, ok bool) {
	if runtime.GOOS != "linux" {
		return nil, true
	}
	l, err := net.Listen("unix", fmt.Sprintf("@adit-test-port-%d", port))
	return l, err == nil
}

// free reports whether a port can be listened on, on all addresses.
func free(port int) bool {
	at := fmt.Sprintf(":%d", port)
	l, err := net.Listen("tcp", at)
	if err != nil {
		return false
	}
	defer l.Close()
	pc, err := net.ListenPacket("udp", at)
	if err != nil {
		return false
	}
	pc.Close()
	return true
}
