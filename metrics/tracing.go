package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"adit/tracing"
)

// NewTracing returns the metrics of a tracer.
func NewTracing(t *tracing.Tracer) prometheus.Collector {
	return &collector{&traceFamily, func(ch chan<- prometheus.Metric) {
		st := t.Stats()
		send(ch, spansRecorded, st.Recorded)
		send(ch, spansSent, st.Sent)
		send(ch, spansFailed, st.Failed)
		send(ch, spansLimit, st.MaxQueue)
	}}
}

var (
	traceFamily family

	spansRecorded = traceFamily.counter("adit_trace_spans_total", "Requests that were recorded as a span.")
	spansSent     = traceFamily.counter("adit_trace_spans_sent_total", "Spans that the collector took. If this stays behind, it is too slow, and spans are dropped.")
	spansFailed   = traceFamily.counter("adit_trace_spans_failed_total", "Spans that could not be sent to the collector.")
	spansLimit    = traceFamily.gauge("adit_trace_queue_limit", "How many spans may wait to be sent.")
)
