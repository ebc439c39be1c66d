package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"adit/agent"
	"adit/dialect"
	"adit/ingress"
	"adit/internal/testca"
	"adit/internal/testport"
	"adit/internal/testtcp"
	"adit/server"
)

// loadBalancer passes conns on to addr, each with that at its start.
func loadBalancer(t *testing.T, addr, header string) string {
	t.Helper()
	return testtcp.Serve(t, func(near net.Conn) {
		far, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer far.Close()
		io.WriteString(far, header)
		var up sync.WaitGroup
		defer up.Wait()
		up.Go(func() {
			io.Copy(far, near)
			far.(*net.TCPConn).CloseWrite()
		})
		io.Copy(near, far)
		near.Close() // ends the copy up
	})
}

// The address in a header of the PROXY protocol is that of the visitor
// everywhere: for upstreams, and for policies.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	ca, own := testca.New(t), testca.New(t)
	port := testport.One(t)
	f := start(t, withTLS(t, ca, func(o *server.Options) {
		o.ProxyProtocolFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		o.TCPPorts = parsePortRange(port)
		o.Policy.DenyIP = []netip.Prefix{netip.MustParsePrefix("203.0.113.66/32")}
	}))
	const header = "PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n"
	const denied = "PROXY TCP4 203.0.113.66 198.51.100.2 4660 443\r\n"

	proxied, err := agent.ParseUpstream(echo(t, ""))
	if err == nil {
		proxied, err = proxied.WithProxyHeader(1)
	}
	if err != nil {
		t.Fatal(err)
	}
	passing, err := agent.ParseUpstream(echo(t, ""))
	if err == nil {
		passing, err = passing.WithProxyHeader(2)
	}
	if err != nil {
		t.Fatal(err)
	}
	// Agents come through the load balancer too.
	f.agent(t, func(o *agent.Options) { o.Server = "ws://" + loadBalancer(t, f.Addr().String(), "PROXY UNKNOWN\r\n") },
		httpTunnel(t, "web", upstream(t, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.Header.Get("X-Forwarded-For"))
		})),
		agent.Tunnel{ID: "raw", Kind: dialect.TCP, Port: port, Upstream: proxied},
		agent.Tunnel{ID: "shop", Kind: dialect.TLS, Upstream: passing},
	).up(t)

	get := func(t *testing.T, addr, scheme string) (int, string) {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool}, ForceAttemptHTTP2: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get(scheme + "://web." + domain + "/")
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	for scheme, addr := range map[string]string{"http": f.Addr().String(), "https": f.TLSAddr().String()} {
		if status, body := get(t, loadBalancer(t, addr, header), scheme); status != 200 || body != "192.0.2.1" {
			t.Errorf("%s: got %d %q, want the visitor's address", scheme, status, body)
		}
		if status, body := get(t, loadBalancer(t, addr, denied), scheme); status != 403 {
			t.Errorf("%s, denied: got %d %q, want 403", scheme, status, body)
		}
		for name, bad := range map[string]string{"without": "", "malformed": "PROXY TCP4 192.0.2.1\r\n"} {
			if status, body := get(t, loadBalancer(t, addr, bad), scheme); status != 0 {
				t.Errorf("%s, %s: got %d %q, want a closed conn", scheme, name, status, body)
			}
		}
	}

	tcp := fmt.Sprintf("127.0.0.1:%d", port)
	ask := func(addr string, send []byte, n int) string {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		c.Write(send)
		b := make([]byte, n)
		m, _ := io.ReadFull(bufio.NewReader(c), b)
		return string(b[:m])
	}
	if got := ask(loadBalancer(t, tcp, header), []byte("hello"), len(header)+5); got != header+"hello" {
		t.Errorf("TCP: the upstream got %q, want the header again and what is behind it", got)
	}
	if got := ask(loadBalancer(t, tcp, denied), []byte("hello"), 1); got != "" {
		t.Errorf("TCP, denied: got %q", got)
	}
	if got := ask(loadBalancer(t, tcp, ""), []byte("hello there, good morning"), 1); got != "" {
		t.Errorf("TCP without a header: got %q", got)
	}
	hello := clientHello(t, &tls.Config{ServerName: "shop." + domain, RootCAs: own.Pool})
	want := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00" + string(rune(12+3+len("shop."+domain))) + "\xc0\x00\x02\x01\xc6\x33\x64\x02\x12\x34\x01\xbb" +
		"\x02\x00" + string(rune(len("shop."+domain))) + "shop." + domain + string(hello)
	if got := ask(loadBalancer(t, f.TLSAddr().String(), header), hello, len(want)); got != want {
		t.Errorf("TLS: the upstream got %q, want %q", got, want)
	}
}

// clientHello returns the first message of a visitor.
func clientHello(t *testing.T, c *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go tls.Client(near, c).HandshakeContext(t.Context())
	b := make([]byte, 32<<10)
	n, err := far.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func parsePortRange(port uint16) []ingress.PortRange {
	return []ingress.PortRange{{First: port, Last: port}}
}
