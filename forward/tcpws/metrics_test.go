package tcpws

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// The original's series have its names, whatever format is asked for.
func TestMetricsFormats(t *testing.T) {
	t.Parallel()
	m := NewMetrics()
	m.connected("http")
	m.failed("upgrade")
	srv := httptest.NewServer(m.Handler())
	defer srv.Close()
	const scraper = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
	for name, tt := range map[string]struct {
		accept, content string
		one             string
	}{
		"none":       {"", "text/plain; version=0.0.4; charset=utf-8; escaping=", "1"},
		"text":       {"text/plain", "text/plain; version=0.0.4; charset=utf-8; escaping=", "1"},
		"Prometheus": {scraper, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=", "1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			req, _ := http.NewRequest("POST", srv.URL, nil)
			req.Header.Set("Accept", tt.accept)
			req.Header.Set("Connection", "upgrade")
			req.Header.Set("Upgrade", "websocket")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("got %s, %v", resp.Status, err)
			}
			if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, tt.content) {
				t.Errorf("got the type %q, want %q", got, tt.content)
			}
			for _, line := range []string{
				`http_to_tcp_connections{type="http"} ` + tt.one,
				`http_to_tcp_error{type="upgrade"} ` + tt.one,
				"http_to_tcp_active_connections 0", "go_goroutines ", "promhttp_metric_handler_requests_in_flight ",
				`promhttp_metric_handler_requests_total{code="200"} `,
			} {
				if !strings.Contains(string(text), "\n"+line) {
					t.Errorf("there is no line %q in\n%s", line, text)
				}
			}
			if strings.Contains(string(text), `type="tcp"`) {
				t.Error("a label is there before its first event")
			}
		})
	}
}

// What has no type in one format still has it in the others.
func TestMetricsKeepTheirType(t *testing.T) {
	t.Parallel()
	m := NewMetrics()
	m.connected("http")
	for range 2 {
		for _, accept := range []string{"application/openmetrics-text", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"} {
			r := httptest.NewRequest("GET", "/metrics", nil)
			r.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			m.Handler().ServeHTTP(w, r)
			if strings.HasPrefix(accept, "application/openmetrics") {
				continue
			}
			d := expfmt.NewDecoder(w.Body, expfmt.ResponseFormat(w.Header()))
			found := false
			for {
				var f dto.MetricFamily
				if d.Decode(&f) != nil {
					break
				}
				if f.GetName() == "http_to_tcp_connections" {
					found = f.GetType() == dto.MetricType_COUNTER && f.Metric[0].GetCounter().GetValue() == 1
				}
			}
			if !found {
				t.Error("the connections are no counter")
			}
		}
	}
}
