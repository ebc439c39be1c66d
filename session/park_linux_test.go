package session_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"adit/internal/testca"
	"adit/internal/undertls"
	"adit/internal/wsconn"
	"adit/session"
)

// A parkedConn tells when the session has parked on it.
type parkedConn struct {
	*wsconn.Conn
	parked chan struct{}
}

func (c *parkedConn) Park(f func()) bool {
	if !c.Conn.Park(f) {
		return false
	}
	select {
	case c.parked <- struct{}{}:
	default:
	}
	return true
}

// TestPark lets sessions rest until they wait without a goroutine, and looks
// whether they notice what happens then.
func TestPark(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		act  func(t *testing.T, p *sessions, hang func())
	}{
		{"bytes", func(t *testing.T, p *sessions, _ func()) {
			local, remote := p.open(t, "x")
			if _, err := local.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 5)
			if _, err := io.ReadFull(remote, got); string(got) != "hello" {
				t.Errorf("read %q, %v, want hello", got, err)
			}
		}},
		{"close", func(t *testing.T, p *sessions, _ func()) {
			p.listener.Close()
			waitFor(t, p.dialler.Done())
		}},
		{"lost carrier", func(t *testing.T, p *sessions, hang func()) {
			lost := p.listener.Detached()
			hang()
			waitFor(t, lost)
			a, b := tcpPair(t)
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := p.resume(ctx, a, b); err != nil {
				t.Errorf("Resume: %v", err)
			}
		}},
	} {
		for name, secure := range map[string]func(a, b net.Conn) (net.Conn, net.Conn){
			"TCP": func(a, b net.Conn) (net.Conn, net.Conn) { return a, b },
			"TLS": func(a, b net.Conn) (net.Conn, net.Conn) {
				ca := testca.New(t)
				return tls.Client(undertls.New(a, nil), &tls.Config{RootCAs: ca.Pool, ServerName: "test"}),
					tls.Server(undertls.New(b, nil), &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server("test"))}})
			},
		} {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				a, b := tcpPair(t)
				c, s := secure(a, b)
				da := &parkedConn{wsconn.New(c, wsconn.Client, wsconn.Options{}), make(chan struct{}, 1)}
				lb := &parkedConn{wsconn.New(s, wsconn.Server, wsconn.Options{}), make(chan struct{}, 1)}
				p := newSessions(t, da, lb, &session.Options{Ping: session.RestAfter + 50*time.Millisecond}, nil)
				waitFor(t, da.parked)
				waitFor(t, lb.parked)
				tt.act(t, p, func() { a.Close() })
			})
		}
	}
}

func waitFor(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		t.Fatal("it did not happen within 20 s")
	}
}
