package server_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"adit/admin"
	"adit/agent"
	"adit/dialect"
	"adit/ingress"
	"adit/internal/testca"
	"adit/server"
)

// anyGuest takes each visitor that it is given, and hangs up.
type anyGuest struct {
	exact bool
	names chan string
}

func (g *anyGuest) Run(ctx context.Context, addr netip.AddrPort, ready func()) error {
	if !addr.IsValid() {
		return errors.New("no address")
	}
	ready()
	<-ctx.Done()
	return nil
}

func (g *anyGuest) Guest(name string, _ netip.AddrPort) (*ingress.Guest, bool) {
	return &ingress.Guest{Visit: func(_ context.Context, conn net.Conn, _ []byte) (ingress.Visited, error) {
		g.names <- name
		return ingress.Visited{}, conn.Close()
	}}, g.exact
}

// Guests get neither the server's own names nor those that the operator has
// blocked, and with patterns none that an agent has bound.
func TestGuestsNames(t *testing.T) {
	t.Parallel()
	for _, exact := range []bool{true, false} {
		g := &anyGuest{exact: exact, names: make(chan string, 10)}
		ca := testca.New(t)
		f := start(t, withTLS(t, ca, func(o *server.Options) { o.TLS.Guests = g }))
		f.agent(t, func(o *agent.Options) {
			o.Server = "wss://" + f.TLSAddr().String()
			o.TLS = &tls.Config{RootCAs: ca.Pool}
		}, newTunnel(t, agent.Tunnel{ID: "bound", Kind: dialect.TLS, Hostnames: []string{"bound.test"}}, facts(t))).up(t)
		if err := f.Block(admin.Block{Name: "blocked.test"}); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name string
			want bool
		}{
			{domain, false}, {"web." + domain, false}, {"localhost", false}, {"blocked.test", false}, {"other.test", true}, {"bound.test", exact},
		} {
			c, err := net.Dial("tcp", f.TLSAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = tls.Client(c, &tls.Config{ServerName: tt.name, RootCAs: ca.Pool}).Handshake()
			got := ""
			select {
			case got = <-g.names:
			default:
			}
			if (got == tt.name) != tt.want {
				t.Errorf("exact %v: %s: the guest got %q (%v), want %v", exact, tt.name, got, err, tt.want)
			}
			if tt.want && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
				t.Errorf("exact %v: %s: got %v, want that the guest hangs up", exact, tt.name, err)
			}
		}
	}
}
