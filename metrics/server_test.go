package metrics_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

func TestServerMetrics(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	port := f.agent(t, "web", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(500)
		}
		io.WriteString(w, "hello")
	})
	for path, status := range map[string]int{"/": 200, "/bad": 500} {
		if got := f.get(t, "web.example.com", path); got != status {
			t.Errorf("%s: got %d, want %d", path, got, status)
		}
	}
	f.get(t, "nobody.example.com", "/")
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	answer, err := io.ReadAll(c)
	c.Close()
	if err != nil || !strings.HasSuffix(string(answer), "hello") {
		t.Errorf("got %q, %v", answer, err)
	}

	for _, tt := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{1, "adit_build_info", []string{"version", "1.2.3"}},
		{1, "adit_ready", nil},
		{0, "adit_draining", nil},
		{1, "adit_http_requests_total", []string{"status", "2xx"}},
		{1, "adit_http_requests_total", []string{"status", "4xx"}},
		{1, "adit_http_requests_total", []string{"status", "5xx"}},
		{1, "adit_http_errors_total", []string{"code", "unknown-name"}},
		{0, "adit_http_errors_total", []string{"code", "agent-offline"}},
		{3, "adit_http_request_duration_seconds", nil},
		{0, "adit_http_requests_in_flight", nil},
		{4, "adit_http_visitors_total", nil}, // and the agent
		{1, "adit_tcp_visitors_total", nil},
		{18, "adit_tcp_received_bytes_total", nil},
		{float64(len(answer)), "adit_tcp_sent_bytes_total", nil},
		{1, "adit_tcp_ports", nil},
		{100, "adit_tcp_ports_limit", nil},
		{0, "adit_udp_ports", nil},
		{0, "adit_udp_datagrams_total", []string{"direction", "received"}},
		{0, "adit_udp_errors_total", []string{"code", "agent-offline"}},
		{0, "adit_streams_opened_total", []string{"ingress", "udp"}},
		{1, "adit_sessions", []string{"dialect", "native", "state", "available"}},
		{1, "adit_handshakes_total", []string{"dialect", "native", "result", "ok"}},
		{1, "adit_tunnels", []string{"kind", "http"}},
		{1, "adit_tunnels", []string{"kind", "tcp"}},
		{1, "adit_binds_total", []string{"kind", "http", "result", "ok"}},
		{2, "adit_names", nil},
		{1024, "adit_visitors_waiting_limit", nil},
		{1, "adit_native_carriers", nil},
		{1, "adit_native_sessions_total", nil},
		{64 << 20, "adit_send_buffer_limit_bytes", nil},
		{16 << 20, "adit_session_send_buffer_limit_bytes", nil},
		{64 << 20, "adit_session_receive_buffer_limit_bytes", nil},
	} {
		f.becomes(t, tt.want, tt.name, tt.labels...)
	}
	if n := f.value(t, "adit_native_sent_bytes_total"); n < 100 {
		t.Errorf("%v bytes were sent to the agent, want more", n)
	}
	if n := f.value(t, "adit_http_sent_bytes_total"); n < 10 {
		t.Errorf("%v bytes were sent to visitors, want both pages at least", n)
	}
}

func TestAgentMetrics(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, tt := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{1, "adit_agent_sessions", []string{"state", "available"}},
		{0, "adit_agent_sessions", []string{"state", "away"}},
		{2, "adit_agent_tunnels", []string{"state", "bound"}},
		{1, "adit_agent_tunnels", []string{"state", "refused"}},
		{7, "adit_agent_sent_bytes_total", nil},
		{1, "adit_agent_round_trip_seconds", nil},
		{0, "adit_agent_send_buffer_limit_bytes", nil},
	} {
		if got := f.value(t, tt.name, tt.labels...); got != tt.want {
			t.Errorf("%s %v: got %v, want %v", tt.name, tt.labels, got, tt.want)
		}
	}
}

// Whatever visitors and agents send, there are no more time series than before.
func TestSeriesAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.agent(t, "web", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(200 + len(r.URL.Path)) })
	f.becomes(t, 1, "adit_sessions", "dialect", "native", "state", "available")
	series := func() (n int) {
		for name, family := range gather(t, f.reg) {
			if strings.HasPrefix(name, "adit_") {
				n += len(family.GetMetric())
			}
		}
		return n
	}
	before := series()
	for i := range 100 {
		f.get(t, fmt.Sprintf("host-%d.example.com", i), fmt.Sprintf("/%d?q=%d", i, i), "X-Id", fmt.Sprint(i), "User-Agent", fmt.Sprint(i))
		f.get(t, "web.example.com", "/"+strings.Repeat("x", i))
		f.get(t, fmt.Sprintf("[::%x]", i), "/")
	}
	for i := range 20 {
		f.get(t, "example.com", "/_adit/connect", "Authorization", fmt.Sprintf("Bearer nobody-%d-nobody", i), "Adit-Id", fmt.Sprintf("id-%d", i))
	}
	if after := series(); after != before {
		t.Errorf("%d time series, %d before", after, before)
	}
	text := scrape(t, f)
	for _, secret := range []string{"host-7", "nobody-7", "id-7", f.secret.Reveal()} {
		if strings.Contains(text, secret) {
			t.Errorf("%q shows", secret)
		}
	}
}

// What comes to the port for TLS.
func TestTLSMetrics(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	pem, err := os.ReadFile(f.DevAuthority())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	for config, ok := range map[*tls.Config]bool{
		{RootCAs: roots, ServerName: "web.example.com"}:              true,
		{RootCAs: x509.NewCertPool(), ServerName: "web.example.com"}: false, // does not trust us
	} {
		c, err := tls.Dial("tcp", f.TLSAddr().String(), config)
		if (err == nil) != ok {
			t.Errorf("got %v, want ok %v", err, ok)
		}
		if err == nil {
			c.Close()
		}
	}
	c, err := net.Dial("tcp", f.TLSAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "this is no TLS at all")
	io.ReadAll(c)
	c.Close()
	for _, tt := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{1, "adit_tls_handshakes_total", []string{"result", "ended"}},
		{1, "adit_tls_handshakes_total", []string{"result", "broken"}},
		{1, "adit_tls_handshakes_total", []string{"result", "refused"}},
		{3, "adit_tls_visitors_total", nil},
		{0, "adit_tls_visitors", nil},
		{0, "adit_tls_errors_total", []string{"code", "unknown-name"}},
		{0, "adit_streams_opened_total", []string{"ingress", "tls"}},
	} {
		f.becomes(t, tt.want, tt.name, tt.labels...)
	}
}
