package tcpws

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// Metrics are those of a Server: the original's series under its names, and
// beside them what it does not count. A nil *Metrics counts nothing. Its methods
// are safe for concurrent use.
type Metrics struct {
	registry    *prometheus.Registry
	connections *prometheus.CounterVec
	current     prometheus.Gauge
	errors      *prometheus.CounterVec
	bytes       *prometheus.CounterVec
}

// NewMetrics returns metrics in a registry of their own.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		connections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_to_tcp_connections",
			Help: "The total number of connections open",
		}, []string{"type"}),
		current: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "http_to_tcp_active_connections",
			Help: "The total number of active connections",
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_to_tcp_error",
			Help: "The total number of errors",
		}, []string{"type"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_tcp_over_websocket_bytes_total",
			Help: "Bytes of payload that connections which have ended moved, by where they went",
		}, []string{"to"}),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.connections, m.current, m.errors, m.bytes,
	)
	return m
}

// Handler serves the metrics, in the format of OpenMetrics to who asks for it.
func (m *Metrics) Handler() http.Handler {
	plain := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	open := promhttp.HandlerFor(prometheus.GathererFunc(m.gatherUntyped), promhttp.HandlerOpts{EnableOpenMetrics: true})
	return promhttp.InstrumentMetricHandler(m.registry, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...).FormatType() == expfmt.TypeOpenMetrics {
			open.ServeHTTP(w, r)
			return
		}
		plain.ServeHTTP(w, r)
	}))
}

// gatherUntyped gathers for OpenMetrics, in which a counter's name ends in
// _total. The original's do not, and are to have the same names for whoever
// asks, so they come without a type.
func (m *Metrics) gatherUntyped() ([]*dto.MetricFamily, error) {
	families, err := m.registry.Gather()
	for _, f := range families {
		if f.GetType() != dto.MetricType_COUNTER || strings.HasSuffix(f.GetName(), "_total") {
			continue
		}
		f.Type = dto.MetricType_UNTYPED.Enum()
		for _, c := range f.Metric {
			c.Untyped, c.Counter = &dto.Untyped{Value: c.Counter.Value}, nil
		}
	}
	return families, err
}

func (m *Metrics) active(n float64) {
	if m != nil {
		m.current.Add(n)
	}
}

func (m *Metrics) connected(what string) {
	if m != nil {
		m.connections.WithLabelValues(what).Inc()
	}
}

func (m *Metrics) failed(what string) {
	if m != nil {
		m.errors.WithLabelValues(what).Inc()
	}
}

func (m *Metrics) moved(toWebSocket, toTCP int64) {
	if m != nil {
		m.bytes.WithLabelValues("websocket").Add(float64(toWebSocket))
		m.bytes.WithLabelValues("tcp").Add(float64(toTCP))
	}
}
