package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"adit/tracing"
)

// A traceCollector looks up what became of spans.
type traceCollector struct{ tracer *tracing.Tracer }

// NewTracing returns the metrics of a tracer.
func NewTracing(t *tracing.Tracer) prometheus.Collector { return &traceCollector{t} }

var (
	traceFamily family

	spansRecorded = traceFamily.counter("adit_trace_spans_total", "Requests that were recorded as a span.")
	spansSent     = traceFamily.counter("adit_trace_spans_sent_total", "Spans that the collector took. If this stays behind, it is too slow, and spans are dropped.")
	spansFailed   = traceFamily.counter("adit_trace_spans_failed_total", "Spans that could not be sent to the collector.")
	spansLimit    = traceFamily.gauge("adit_trace_queue_limit", "How many spans may wait to be sent.")
)

// Describe implements prometheus.Collector.
func (c *traceCollector) Describe(ch chan<- *prometheus.Desc) { traceFamily.describe(ch) }

// Collect implements prometheus.Collector.
func (c *traceCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.tracer.Stats()
	send(ch, spansRecorded, st.Recorded)
	send(ch, spansSent, st.Sent)
	send(ch, spansFailed, st.Failed)
	send(ch, spansLimit, st.MaxQueue)
}
