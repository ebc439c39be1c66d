package agent_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"adit/agent"
	"adit/dialect"
	"adit/internal/testca"
	"adit/internal/testtcp"
)

// listen serves each conn to a new listener with f.
func listen(t *testing.T, f func(net.Conn)) string {
	return testtcp.ServeInTurn(t, func(c net.Conn) {
		c.SetDeadline(time.Now().Add(patience))
		f(c)
	})
}

// readLine reads up to a line's end, and not more.
func readLine(c net.Conn) (line string) {
	b := make([]byte, 1)
	for !strings.HasSuffix(line, "\n") {
		if _, err := c.Read(b); err != nil {
			return line + err.Error()
		}
		line += string(b)
	}
	return line
}

// The upstream is told of the visitor before TLS with it begins, and of an
// attempt that is nobody's too.
func TestProxyHeaderBeforeTLS(t *testing.T) {
	t.Parallel()
	ca := testca.New(t)
	config := &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server("localhost"))}}
	lines := make(chan string, 10)
	addr := listen(t, func(c net.Conn) {
		lines <- readLine(c)
		tc := tls.Server(c, config)
		if _, err := io.WriteString(tc, "hello"); err != nil {
			lines <- err.Error()
		}
		tc.Close()
	})
	up, err := agent.ParseUpstream("https://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	up.TrustOnly(ca.Pool)
	if up, err = up.WithProxyHeader(1); err != nil {
		t.Fatal(err)
	}
	if err := up.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	if got := <-lines; got != "PROXY UNKNOWN\r\n" {
		t.Errorf("Check: the upstream was told %q", got)
	}

	f := newFixture(t)
	r := run(t, f.options(agent.Tunnel{ID: "raw", Kind: dialect.TCP, Upstream: up}))
	c := f.visit(r.until(agent.Connected).Bound[0].Port)
	if b, err := io.ReadAll(c); string(b) != "hello" {
		t.Errorf("the visitor got %q, %v", b, err)
	}
	visitor, server := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr)
	if got, want := <-lines, fmt.Sprintf("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n", visitor.Port, server.Port); got != want {
		t.Errorf("the upstream was told %q, want %q", got, want)
	}
}

// What should speak HTTP/2 with TLS, and does not, is not taken for it.
func TestHTTP2NeedsALPN(t *testing.T) {
	t.Parallel()
	ca := testca.New(t)
	for protocol, good := range map[string]bool{"h2": true, "http/1.1": false, "": false} {
		config := &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, testca.Server("localhost"))}}
		if protocol != "" {
			config.NextProtos = []string{protocol}
		}
		addr := listen(t, func(c net.Conn) { io.Copy(io.Discard, tls.Server(c, config)) })
		up, err := agent.ParseUpstream("h2://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		up.TrustOnly(ca.Pool)
		if err := up.Check(t.Context()); (err == nil) != good {
			t.Errorf("upstream with %q: got %v", protocol, err)
		}
	}
}

func TestWhatUpstreamsCannotBe(t *testing.T) {
	t.Parallel()
	h2, err := agent.ParseUpstream("h2c://localhost:1")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := agent.ParseUpstream("localhost:1")
	if err != nil {
		t.Fatal(err)
	}
	told, err := plain.WithProxyHeader(2)
	if err != nil {
		t.Fatal(err)
	}
	rules := agent.Rules{Host: "rewrite"}
	for name, err := range map[string]error{
		"version 3": func() error { _, err := plain.WithProxyHeader(3); return err }(),
		"a handler's header": func() error {
			_, err := agent.HandlerUpstream("h", nil).WithProxyHeader(1)
			return err
		}(),
		"rules for HTTP/2":         func() error { _, err := h2.With(rules, nil); return err }(),
		"rules beside the header":  func() error { _, err := told.With(rules, nil); return err }(),
		"TCP to one for HTTP":      agent.Run(t.Context(), agent.Options{Server: "ws://localhost:1", Tunnels: []agent.Tunnel{{ID: "a", Kind: dialect.TCP, Upstream: h2}}}),
		"TLS passed on to HTTP/2c": agent.Run(t.Context(), agent.Options{Server: "ws://localhost:1", Tunnels: []agent.Tunnel{{ID: "a", Kind: dialect.TLS, Upstream: h2}}}),
	} {
		if err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
