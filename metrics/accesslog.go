package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"adit/accesslog"
)

// NewAccessLog returns the metrics of an access log.
func NewAccessLog(l *accesslog.Log) prometheus.Collector {
	return &collector{&accessFamily, func(ch chan<- prometheus.Metric) {
		st := l.Stats()
		send(ch, accessLines, st.Written)
		send(ch, accessDropped, st.Dropped)
		send(ch, accessFailed, st.Failed)
		send(ch, accessBuffer, st.Pending)
		send(ch, accessLimit, st.MaxPending)
	}}
}

var (
	accessFamily family

	accessLines   = accessFamily.counter("adit_access_log_lines_total", "Lines of the access log.")
	accessDropped = accessFamily.counter("adit_access_log_dropped_total", "Lines that were not written since too many waited: what takes them is too slow.")
	accessFailed  = accessFamily.counter("adit_access_log_failed_total", "Times that the access log could not be written. The lines are lost.")
	accessBuffer  = accessFamily.gauge("adit_access_log_buffer_bytes", "Lines that wait to be written.")
	accessLimit   = accessFamily.gauge("adit_access_log_buffer_limit_bytes", "How many bytes of them there may be.")
)
