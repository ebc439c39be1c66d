package server_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"adit/agent"
	"adit/auth"
	"adit/carrier/quicconn"
	"adit/dialect/native"
	"adit/internal/testca"
	"adit/server"
)

// startQUIC starts a server that takes QUIC, too.
func startQUIC(t *testing.T) (*fixture, *testca.Authority) {
	t.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	ca := testca.New(t)
	return start(t, withTLS(t, ca, func(o *server.Options) { o.QUICListen = "127.0.0.1:0" })), ca
}

func (f *fixture) byQUIC(ca *testca.Authority) func(*agent.Options) {
	return func(o *agent.Options) {
		o.Server = fmt.Sprintf("wss://127.0.0.1:%d", f.QUICAddr().Port())
		o.Carrier = native.QUIC
		o.DialContext = nil
		o.TLS = &tls.Config{RootCAs: ca.Pool, ServerName: domain}
	}
}

// Agents come over QUIC as over TCP: with a credential alone.
func TestQUIC(t *testing.T) {
	f, ca := startQUIC(t)
	body := strings.Repeat("0123456789", 300_000)
	f.agent(t, f.byQUIC(ca), httpTunnel(t, "web", saying(t, body))).up(t)
	if status, got := f.get(t, f.visitor(t), "web."+domain, "/"); status != 200 || !strings.HasPrefix(got, body) {
		t.Errorf("got %d with %d bytes, want 200 with %d", status, len(got), len(body))
	}

	a := f.agent(t, func(o *agent.Options) {
		f.byQUIC(ca)(o)
		wrong := auth.NewSecret()
		o.Token = func() (string, error) { return wrong.Reveal(), nil }
	}, httpTunnel(t, "other", saying(t, "no")))
	if s := a.phase(t, agent.Refused); s.Err == nil || !strings.Contains(s.Err.Error(), "401") {
		t.Errorf("with a wrong credential: %v, want 401", s.Err)
	}
	a.kill()

	a = f.agent(t, func(o *agent.Options) {
		f.byQUIC(ca)(o)
		o.TLS = &tls.Config{RootCAs: testca.New(t).Pool, ServerName: domain}
	}, httpTunnel(t, "third", saying(t, "no")))
	if s := a.phase(t, agent.Reconnecting); s.Err == nil || !strings.Contains(s.Err.Error(), "quic handshake") {
		t.Errorf("with a server that is not trusted: %v, want a failed handshake", s.Err)
	}
	a.kill()
}

// QUIC is for agents: visitors get nothing there, and nobody without a word.
func TestQUICVisitors(t *testing.T) {
	f, ca := startQUIC(t)
	f.agent(t, f.byQUIC(ca), httpTunnel(t, "web", saying(t, "hello"))).up(t)
	conn, err := quicconn.Dial(t.Context(), f.QUICAddr().String(), &tls.Config{RootCAs: ca.Pool, ServerName: domain})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: web.%s\r\nConnection: close\r\n\r\n", domain)
	b, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 404 ") || strings.Contains(string(b), "hello") {
		t.Errorf("a visitor got %.100q, %v; want 404", b, err)
	}
}

func TestQUICOptions(t *testing.T) {
	t.Parallel()
	opts := options(t, io.Discard, auth.NewSecret())
	opts.QUICListen = "127.0.0.1:0"
	if _, err := server.New(opts); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("New without a certificate: %v, want an error", err)
	}
	for _, tt := range []struct{ server, want string }{{"ws://localhost:1", "wss"}, {"wss://localhost:1", ""}} {
		_, err := agent.New(agent.Options{Server: tt.server, Carrier: native.QUIC, Tunnels: []agent.Tunnel{httpTunnel(t, "web", saying(t, ""))}})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New of an agent for %s: %v, want %q", tt.server, err, tt.want)
		}
	}
}
