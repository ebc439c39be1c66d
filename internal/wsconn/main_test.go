package wsconn

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"adit/internal/testca"
	"adit/internal/undertls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipes are the ways to connect two ends; each closes its conns with t.
var pipes = map[string]func(t testing.TB) (client, server net.Conn){
	"pipe": func(t testing.TB) (net.Conn, net.Conn) {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		return a, b
	},
	"tcp":  func(t testing.TB) (net.Conn, net.Conn) { return dialed(t, "tcp", "127.0.0.1:0") },
	"unix": func(t testing.TB) (net.Conn, net.Conn) { return dialed(t, "unix", filepath.Join(t.TempDir(), "s")) },
	"tls": func(t testing.TB) (net.Conn, net.Conn) {
		a, b := dialed(t, "tcp", "127.0.0.1:0")
		return secured(t, a, b)
	},
	"undertls": func(t testing.TB) (net.Conn, net.Conn) {
		a, b := dialed(t, "tcp", "127.0.0.1:0")
		return secured(t, undertls.New(a, nil), undertls.New(b, nil))
	},
}

// secured does TLS over both ends of a conn.
func secured(t testing.TB, a, b net.Conn) (client, server net.Conn) {
	ca := testca.New(t)
	c := tls.Client(a, &tls.Config{RootCAs: ca.Pool, ServerName: "test"})
	s := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server("test"))}})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Handshake(); err != nil {
			t.Errorf("handshake: %v", err)
		}
	})
	if err := c.Handshake(); err != nil {
		t.Errorf("handshake: %v", err)
	}
	wg.Wait()
	return c, s
}

func dialed(t testing.TB, network, addr string) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// newPair returns both ends of a WebSocket over the named way to connect.
func newPair(t testing.TB, way string) (client, server *Conn) {
	t.Helper()
	a, b := pipes[way](t)
	client, server = New(a, Client, Options{}), New(b, Server, Options{})
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// eachWay runs test once for every way to connect and for both directions.
func eachWay(t *testing.T, test func(t *testing.T, from, to *Conn)) {
	for way := range pipes {
		t.Run(way+"/to server", func(t *testing.T) {
			t.Parallel()
			c, s := newPair(t, way)
			test(t, c, s)
		})
		t.Run(way+"/to client", func(t *testing.T) {
			t.Parallel()
			c, s := newPair(t, way)
			test(t, s, c)
		})
	}
}
