package session_test

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

func TestConn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		pair func(testing.TB) (a, b net.Conn)
	}{
		{"pipe", pipePair},
		{"tcp", tcpPair},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				a, b := tt.pair(t)
				p := newSessions(t, a, b, nil, nil)
				c1, c2 = p.open(t, "")
				return c1, c2, func() {
					c1.Close()
					c2.Close()
					p.dialler.Close()
					p.listener.Close()
				}, nil
			})
		})
	}
}
