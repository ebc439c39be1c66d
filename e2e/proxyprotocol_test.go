package e2e

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"adit/internal/testca"
)

// nginx as an upstream that wants to know its visitors, and as a load balancer
// that says who they are.
func TestProxyProtocolWithNginx(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	own := testca.New(t)
	cert, key := own.Files(t, testca.Server("passed."+domain))
	plain, secure, balancer, tlsBalancer := freePort(t), freePort(t), freePort(t), freePort(t)
	raw := freePort(t)
	const say = `location / { return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr"; }`

	s := startTLS(t, "--tcp-ports", raw, "--proxy-protocol-from", "127.0.0.1")
	up := nginxWith(t, fmt.Sprintf("server { listen 127.0.0.1:%s proxy_protocol; %s }\nserver { listen 127.0.0.1:%s ssl proxy_protocol; ssl_certificate %s; ssl_certificate_key %s; %s }\n",
		plain, say, secure, cert, key, say),
		// 127.0.0.1:port is what is in front of the server.
		fmt.Sprintf("server { listen 127.0.0.1:%s; proxy_pass %s; proxy_protocol on; }\nserver { listen 127.0.0.1:%s; proxy_pass %s; proxy_protocol on; }\n",
			balancer, s.addr, tlsBalancer, s.tlsAddr))
	for _, port := range []string{plain, secure, balancer, tlsBalancer} {
		waitAccepts(t, up, "127.0.0.1:"+port)
	}
	agent := func(args ...string) {
		t.Helper()
		a := s.agentVia(t, "127.0.0.1:"+balancer, nil, args...)
		a.waitLog(t, "an address", 20*time.Second, func(log string) bool { return strings.Contains(log, "->") })
	}
	agent("http", "127.0.0.1:"+plain, "--id", "http", "--proxy-protocol", "v1")
	agent("tls", "127.0.0.1:"+secure, "--id", "passed", "--proxy-protocol", "v2")
	agent("http", upstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("X-Forwarded-For")) }), "--id", "web")

	curl := func(at, authority, url string) (body, from string) {
		t.Helper()
		out := run(t, time.Minute, need(t, "curl"), "-sS", "--max-time", "50", "--cacert", authority, "--connect-to", "::127.0.0.1:"+at, "-w", "\n%{local_ip} %{local_port} 127.0.0.1", url)
		body, from, _ = strings.Cut(out, "\n")
		return body, from
	}
	if body, from := curl(balancer, s.caFile, "http://http."+domain+"/"); body != from {
		t.Errorf("HTTP: nginx was told %q, want %q", body, from)
	}
	// Of requests of HTTP/2 the address that the visitor connected to is not told.
	if body, from := curl(tlsBalancer, s.caFile, "https://http."+domain+"/"); body != strings.TrimSuffix(from, "127.0.0.1")+"0.0.0.0" {
		t.Errorf("HTTPS: nginx was told %q, want %q and no more", body, from)
	}
	if body, from := curl(tlsBalancer, own.File(t), "https://passed."+domain+"/"); body != from {
		t.Errorf("TLS that is passed on: nginx was told %q, want %q", body, from)
	}
	if body, _ := curl(tlsBalancer, s.caFile, "https://web."+domain+"/"); body != "127.0.0.1" {
		t.Errorf("X-Forwarded-For: got %q", body)
	}
	// Past the load balancer nobody comes in from its address.
	_, port, _ := net.SplitHostPort(s.tlsAddr)
	if out, err := try(t.Context(), time.Minute, need(t, "curl"), "-sS", "--max-time", "20", "--cacert", s.caFile, "--connect-to", "::127.0.0.1:"+port, "https://web."+domain+"/"); err == nil {
		t.Errorf("without a header: got %q", out)
	}
}
