// Package metrics tells Prometheus what a server does, or an agent. What it
// tells was counted by the parts themselves, and is looked up when Prometheus
// asks: a visitor pays for a few additions and nothing else.
//
//	h := metrics.Handler(metrics.NewServer(s, version), ...)
//
// docs/metrics.md lists all of it. No label has a value that somebody outside
// chose, such as a hostname or an ID: their number would have no bound.
package metrics

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	maxScrapes    = 4 // at a time
	scrapeTimeout = 10 * time.Second
)

// Registry returns a registry with parts, and with what is known of the
// process. version is that of the program.
func Registry(version string, parts ...prometheus.Collector) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(build(version),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(parts...)
	return r
}

// Handler serves a registry.
func Handler(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTimeout,
	})
}

func build(version string) prometheus.Collector {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "adit_build_info",
		Help: "1, with the versions of adit and of Go as labels.",
	}, []string{"version", "go"})
	info.WithLabelValues(version, runtime.Version()).Set(1)
	return info
}

// A metric is one whose value is looked up.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// A family makes metrics, and remembers them.
type family struct{ all []*metric }

func (f *family) add(kind prometheus.ValueType, name, help string, labels []string) *metric {
	m := &metric{prometheus.NewDesc(name, help, labels, nil), kind}
	f.all = append(f.all, m)
	return m
}

// counter makes a metric that only grows.
func (f *family) counter(name, help string, labels ...string) *metric {
	return f.add(prometheus.CounterValue, name, help, labels)
}

// gauge makes a metric that may fall.
func (f *family) gauge(name, help string, labels ...string) *metric {
	return f.add(prometheus.GaugeValue, name, help, labels)
}

// histogram makes a metric that is sent as one.
func (f *family) histogram(name, help string) *metric {
	return f.add(prometheus.UntypedValue, name, help, nil)
}

// A collector is a prometheus.Collector of a family whose values collect sends.
type collector struct {
	of      *family
	collect func(chan<- prometheus.Metric)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.of.all {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) { c.collect(ch) }

// A number is what metrics are made of.
type number interface {
	~int | ~int64 | ~uint64 | ~float64
}

// send sends the value of m with those labels.
func send[T number](ch chan<- prometheus.Metric, m *metric, v T, labels ...string) {
	ch <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(v), labels...)
}

// sendBool sends 1 or 0.
func sendBool(ch chan<- prometheus.Metric, m *metric, v bool) {
	n := 0
	if v {
		n = 1
	}
	send(ch, m, n)
}
